"""Secondary Capture Image (PS3.3 A.8.1): boxes for viewers that know nothing but pictures."""

from pathlib import Path

import numpy as np
from highdicom import SOPClass
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pipeline.dicom.read.geometry import pixel_shape
from pipeline.dicom.write import codes as ours
from pipeline.dicom.write.maker import Maker, aspect_ratio, new_object, silent, store
from pipeline.dicom.write.source import SourceImage


def write_capture(
    path: Path, source: SourceImage, frame: int, pixels: NDArray[np.uint8], maker: Maker
) -> None:
    """Write a picture in which boxes, classes and the mark of research are part of the pixels.

    Parameters
    ----------
    frame : int
        Which frame of the source it shows, from 0.
    pixels : array (H, W, 3), uint8
        RGB.
    """
    with silent():
        store(_capture(source, frame, pixels, maker), path, maker)


def _capture(source: SourceImage, frame: int, pixels: NDArray[np.uint8], maker: Maker) -> Dataset:
    reference = source.reference
    number = frame + 1 if source.multi_frame else source.number
    capture = SOPClass(
        study_instance_uid=reference.StudyInstanceUID,
        sop_class_uid=SecondaryCaptureImageStorage,
        modality="OT",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=reference.SpecificCharacterSet,
        **new_object(maker, reference, "sc", number),
    )
    capture.copy_patient_and_study_information(reference)
    capture.ConversionType = "WSD"  # made on a workstation (PS3.3 C.8.6.1)
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.BurnedInAnnotation = "YES"
    capture.PatientOrientation = capture.Laterality = ""
    capture.DerivationDescription = f"Detections of a model drawn on the image. {maker.mark}"
    capture.SourceImageSequence = [_origin(source, frame)]
    if source.header.text("LossyImageCompression") == "01":
        capture.LossyImageCompression = "01"  # once lossy, always lossy (C.7.6.1.1.5)
    height, width = pixel_shape(source.header, frame)
    if height != width:
        capture.PixelAspectRatio = aspect_ratio(height, width)
    _add_pixels(capture, pixels)
    return capture


def _origin(source: SourceImage, frame: int) -> Dataset:
    """Which image, and which frame of it, was drawn on."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.reference.SOPClassUID
    item.ReferencedSOPInstanceUID = source.reference.SOPInstanceUID
    if source.multi_frame:
        item.ReferencedFrameNumber = frame + 1
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = ours.SOURCE_IMAGE[:2]
    purpose.CodeMeaning = ours.SOURCE_IMAGE.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _add_pixels(capture: Dataset, pixels: NDArray[np.uint8]) -> None:
    """Image Pixel module (PS3.3 C.7.6.3) of an RGB picture, uncompressed."""
    capture.Rows, capture.Columns = pixels.shape[:2]
    capture.SamplesPerPixel, capture.PhotometricInterpretation = 3, "RGB"
    capture.PlanarConfiguration, capture.PixelRepresentation = 0, 0
    capture.BitsAllocated, capture.BitsStored, capture.HighBit = 8, 8, 7
    raw = pixels.tobytes()
    capture.PixelData = raw + b"\0" * (len(raw) % 2)
    capture["PixelData"].VR = "OB"
