"""A folder of DICOM or images to detections."""
