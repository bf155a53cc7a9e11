import numpy as np
import pytest
from dicom_factory import lut, write
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.data.intensity import Intensity
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.lut import windowed
from pipeline.dicom.read.pixels import frames, read_frame

RAMP = np.array([[0, 100, 200], [300, 400, 4095]], np.uint16)
FULL = Intensity(0, 100)


def shown(path, intensity=FULL):
    return read_frame(path, intensity).pixels.tolist()


def test_linear_window_follows_the_formula_of_the_standard():
    # PS3.3 C.11.2.1.2.1 with centre 2048 and width 4096: x <= 0 is black, x > 4095 is white,
    # else ((x - 2047.5) / 4095 + 0.5).
    found = windowed(np.array([-1.0, 0, 2047.5, 4095, 4096]), 2048, 4096, "LINEAR")
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1])


def test_other_window_functions():
    values = np.array([0.0, 50, 100])
    np.testing.assert_allclose(windowed(values, 50, 100, "LINEAR_EXACT"), [0, 0.5, 1])
    # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w)); at +-half the width that is 1 / (1 + e^-+2).
    found = windowed(values, 50, 100, "SIGMOID")
    np.testing.assert_allclose(found, [0.11920292, 0.5, 0.88079708], rtol=1e-7)
    assert windowed(np.array([-1e9, 1e9]), 50, 100, "SIGMOID").round(9).tolist() == [0.0, 1.0]


def test_linear_window_of_width_one_is_a_threshold():
    assert windowed(np.array([9.0, 9.5, 10.0]), 10, 1, "LINEAR").tolist() == [0.0, 0.0, 1.0]


def test_window_comes_after_the_rescale(tmp_path):
    # Rescaled values -1000 .. ; window 0 .. 510 exactly in the middle at 255.
    pixels = np.array([[1000, 1255, 1510]], np.uint16)
    path = write(
        tmp_path / "a",
        pixels,
        RescaleSlope=1,
        RescaleIntercept=-1000,
        WindowCenter=255,
        WindowWidth=510,
        VOILUTFunction="LINEAR_EXACT",
    )
    frame = read_frame(path, FULL)
    assert frame.pixels.tolist() == [[0, 128, 255]]
    assert frame.notes == ("window applied",)


def test_first_of_several_windows_is_taken_and_noted(tmp_path):
    extra = {
        "WindowCenter": [100, 4000],
        "WindowWidth": [200, 10],
        "VOILUTFunction": "LINEAR_EXACT",
    }
    frame = read_frame(write(tmp_path / "a", RAMP, **extra), FULL)
    assert frame.pixels.tolist() == [[0, 128, 255], [255, 255, 255]]
    assert frame.notes == ("first of several windows",)


def test_window_policy_none_uses_percentiles(tmp_path):
    path = write(tmp_path / "a", RAMP, WindowCenter=100, WindowWidth=200)
    assert shown(path, Intensity(0, 100, "none")) == [[0, 6, 12], [19, 25, 255]]


@pytest.mark.parametrize(
    "extra",
    [
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "CUBIC"},
    ],
)
def test_invalid_window_is_ignored_and_noted(tmp_path, extra):
    frame = read_frame(write(tmp_path / "a", RAMP, **extra), FULL)
    assert frame.notes == ("invalid window ignored",)
    assert frame.pixels.tolist() == [[0, 6, 12], [19, 25, 255]]


def test_window_without_partner_is_no_window(tmp_path):
    assert shown(write(tmp_path / "a", RAMP, WindowCenter=100)) == [[0, 6, 12], [19, 25, 255]]


def test_negative_slope_turns_the_image_over(tmp_path):
    path = write(tmp_path / "a", np.array([[0, 51, 255]], np.uint8), RescaleSlope=-1)
    assert shown(path) == [[255, 204, 0]]


def test_rescale_does_not_change_8_bit_pixels(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = write(tmp_path / "a", pixels, RescaleSlope=3, RescaleIntercept=-7)
    np.testing.assert_array_equal(read_frame(path, FULL).pixels, pixels)


def test_a_rescale_that_leaves_nothing_is_ignored(tmp_path):
    frame = read_frame(write(tmp_path / "a", RAMP, RescaleSlope=0, RescaleIntercept=1), FULL)
    assert frame.pixels.tolist() == [[0, 6, 12], [19, 25, 255]]
    assert frame.notes == ("wrong header: Rescale Slope 0 ignored",)


def test_modality_lut_clamps_at_both_ends(tmp_path):
    pixels = np.array([[-5, -2, -1, 0, 9]], np.int16)
    path = write(tmp_path / "a", pixels, ModalityLUTSequence=lut([0, 100, 255], first=-2))
    frame = read_frame(path, FULL)
    assert frame.pixels.tolist() == [[0, 0, 100, 255, 255]]
    assert frame.notes == ("modality LUT applied",)


def test_voi_lut_goes_before_a_window(tmp_path):
    pixels = np.array([[0, 1, 2, 3]], np.uint8)
    extra = {"VOILUTSequence": lut([0, 1000, 4000, 4095], bits=12)}
    path = write(tmp_path / "a", pixels, WindowCenter=1, WindowWidth=1, **extra)
    frame = read_frame(path, FULL)
    assert frame.pixels.tolist() == [[0, 62, 249, 255]]
    assert frame.notes == ("VOI LUT applied",)


def test_voi_lut_of_rescaled_values_may_begin_below_zero(tmp_path):
    pixels = np.array([[0, 1000, 1001, 2000]], np.uint16)
    sequence = lut([0, 100, 200, 255], first=0)
    sequence[0].LUTDescriptor = [4, 65536 - 1, 8]  # -1, written with an unsigned VR
    sequence[0]["LUTDescriptor"].VR = "US"
    path = write(
        tmp_path / "a", pixels, RescaleSlope=1, RescaleIntercept=-1000, VOILUTSequence=sequence
    )
    assert shown(path) == [[0, 100, 200, 255]]


def test_lut_data_as_words_of_bytes(tmp_path):
    sequence = lut([0, 1, 2, 3])
    sequence[0]["LUTData"].VR = "OW"
    sequence[0].LUTData = np.array([0, 10, 20, 250], "<u2").tobytes()
    path = write(tmp_path / "a", np.array([[0, 1, 2, 3]], np.uint8), VOILUTSequence=sequence)
    assert shown(path) == [[0, 10, 20, 250]]


def test_empty_modality_lut_is_an_error(tmp_path):
    sequence = lut([0, 1, 2, 3])
    del sequence[0].LUTData
    with pytest.raises(DicomError, match="grey-scale element is malformed"):
        read_frame(write(tmp_path / "a", RAMP, ModalityLUTSequence=sequence), FULL)


def test_padding_is_left_out_of_percentiles_and_black(tmp_path):
    pixels = np.array([[1000, 1100, 1200, 63536]], np.uint16)
    path = write(tmp_path / "a", pixels, PixelPaddingValue=63536)
    assert shown(path) == [[0, 128, 255, 0]]
    path = write(
        tmp_path / "b", pixels, PixelPaddingValue=63536, PhotometricInterpretation="MONOCHROME1"
    )
    assert shown(path) == [[255, 128, 0, 0]]


def test_padding_range_of_signed_pixels(tmp_path):
    pixels = np.array([[-2000, -1990, -1000, 0, 1000]], np.int16)
    path = write(tmp_path / "a", pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500)
    assert shown(path) == [[0, 0, 0, 128, 255]]


def groups(slope=None, window=None):
    item = Dataset()
    if slope is not None:
        transform = Dataset()
        transform.RescaleSlope, transform.RescaleIntercept = slope, 0
        item.PixelValueTransformationSequence = Sequence([transform])
    if window is not None:
        voi = Dataset()
        voi.WindowCenter, voi.WindowWidth = window
        voi.VOILUTFunction = "LINEAR_EXACT"
        item.FrameVOILUTSequence = Sequence([voi])
    return item


def test_functional_groups_per_frame_before_shared(tmp_path):
    stack = np.array([[[0, 100, 200]], [[0, 100, 200]]], np.uint16)
    path = write(
        tmp_path / "a",
        stack,
        2,
        WindowCenter=1,
        WindowWidth=1,
        SharedFunctionalGroupsSequence=Sequence([groups(window=(100, 200))]),
        PerFrameFunctionalGroupsSequence=Sequence([groups(slope=1), groups(2, (200, 400))]),
    )
    assert [frame.pixels.tolist() for frame in frames(path, FULL)] == [[[0, 128, 255]]] * 2


def test_32_bit_pixels(tmp_path):
    pixels = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    assert shown(write(tmp_path / "a", pixels)) == [[0, 128, 255]]
