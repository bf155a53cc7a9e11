"""DICOM files to pictures, and what their headers say."""
