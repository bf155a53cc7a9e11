"""DICOM in and out."""

# Names of files that hold DICOM; many have no extension at all (PS3.10 8.2 allows none).
EXTENSIONS = frozenset({".dcm", ".dicom", ".ima"})

# How notes begin on a header that the pixel data contradict, and that was not believed.
WRONG_HEADER = "wrong header: "
