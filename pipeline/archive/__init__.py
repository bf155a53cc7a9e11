"""DICOM archives: find, fetch and store objects by DICOMweb or by DIMSE."""
