"""The data elements that are kept of a header; all others are skipped unread.

Nothing here names or dates a patient. Whoever adds an element adds it to what may be shown.
"""

from typing import Any

from pydicom.tag import Tag

IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
SELECTION = (
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "SeriesDescription",
    "BurnedInAnnotation",
)
GEOMETRY = (
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelSpacingCalibrationType",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
IMAGE_PIXEL = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
GREY_SCALE = (
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
)
FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
PALETTE = tuple(
    f"{prefix}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for prefix, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
KEPT: tuple[Any, ...] = tuple(
    Tag(keyword)
    for group in (
        IDENTITY,
        SELECTION,
        GEOMETRY,
        IMAGE_PIXEL,
        GREY_SCALE,
        FUNCTIONAL_GROUPS,
        PALETTE,
    )
    for keyword in group
)
