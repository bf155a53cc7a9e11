import numpy as np
import pydicom
import pytest
from object_factory import MAKER, MARK, ROOT, errors_of, source
from predict_factory import spot
from pydicom import uid

from pipeline.data.intensity import Intensity
from pipeline.dicom.read.pixels import read_frame
from pipeline.dicom.write.capture import write_capture

PICTURE = np.random.default_rng(0).integers(0, 256, (41, 51, 3), dtype=np.uint8)


def test_the_picture_comes_back(tmp_path):
    write_capture(tmp_path / "a.dcm", source(tmp_path / "image"), 0, PICTURE, MAKER)
    assert (read_frame(tmp_path / "a.dcm", Intensity()).pixels == PICTURE).all()
    assert errors_of(tmp_path / "a.dcm") == []


def test_what_the_capture_is(tmp_path):
    image = source(tmp_path / "image", InstanceNumber=7, LossyImageCompression="01")
    write_capture(tmp_path / "a.dcm", image, 0, PICTURE, MAKER)
    capture = pydicom.dcmread(tmp_path / "a.dcm")
    assert capture.SOPClassUID == uid.SecondaryCaptureImageStorage
    assert (capture.BurnedInAnnotation, capture.ConversionType) == ("YES", "WSD")
    assert list(capture.ImageType) == ["DERIVED", "SECONDARY"]
    assert capture.SeriesDescription == MARK and MARK in capture.DerivationDescription
    assert (capture.StudyInstanceUID, capture.PatientName) == (ROOT + "2", "Anonymous")
    assert capture.SeriesInstanceUID != ROOT + "3"
    assert (capture.InstanceNumber, capture.LossyImageCompression) == (7, "01")
    (origin,) = capture.SourceImageSequence
    assert origin.ReferencedSOPInstanceUID == ROOT + "1"
    assert "ContentDate" in capture and "DateOfSecondaryCapture" not in capture


def test_a_frame_is_named_and_numbered(tmp_path):
    kind = uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    image = source(tmp_path / "image", np.stack([spot()] * 3), 3, SOPClassUID=kind)
    write_capture(tmp_path / "a.dcm", image, 2, PICTURE, MAKER)
    capture = pydicom.dcmread(tmp_path / "a.dcm")
    assert capture.SourceImageSequence[0].ReferencedFrameNumber == capture.InstanceNumber == 3
    assert errors_of(tmp_path / "a.dcm") == []


@pytest.mark.parametrize(
    ("elements", "ratio"),
    [
        ({"PixelSpacing": [2, 2]}, None),
        ({"PixelSpacing": [2, 1.5]}, [4, 3]),
        ({"PixelAspectRatio": [1, 2]}, [1, 2]),
    ],
)
def test_pixels_that_are_not_square_keep_their_shape(tmp_path, elements, ratio):
    write_capture(tmp_path / "a.dcm", source(tmp_path / "image", **elements), 0, PICTURE, MAKER)
    assert pydicom.dcmread(tmp_path / "a.dcm").get("PixelAspectRatio") == ratio
    assert errors_of(tmp_path / "a.dcm") == []
