"""Files of a true HTJ2K encoder; `htj2k_factory` says how they were made."""

import shutil

import numpy as np
import pydicom
import pytest
from htj2k_factory import SAMPLES, path_of
from predict_factory import BrightSpots
from pydicom.encaps import encapsulate, generate_frames

from pipeline.data.intensity import Intensity, to_uint8
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.header import pixel_stream, read_header
from pipeline.dicom.read.pixels import read_frame
from pipeline.dicom.read.stored import pixel_layout, stored_frames
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder

LOSSLESS = [name for name, sample in SAMPLES.items() if not sample.step]
LOSSY = [name for name, sample in SAMPLES.items() if sample.step]


def stored(path):
    header = read_header(path)
    with pixel_stream(header) as stream:
        return next(stored_frames(header, pixel_layout(header, stream), stream))[0]


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_pictures_come_back_exactly(name):
    sample = SAMPLES[name]
    assert read_header(path_of(name)).syntax == sample.syntax
    pixels = stored(path_of(name))
    assert pixels.dtype == sample.pixels.dtype
    np.testing.assert_array_equal(pixels, sample.pixels)
    full = Intensity(0, 100)
    np.testing.assert_array_equal(
        read_frame(path_of(name), full).pixels, to_uint8(sample.pixels, full)
    )


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_pictures_come_back_within_the_step_of_the_quantiser(name):
    sample = SAMPLES[name]
    error = stored(path_of(name)).astype(float) - sample.pixels
    # A coefficient is off by a step at most, by 1/sqrt(3) of it if all errors are alike likely; the
    # wavelets and the encoder's weights keep that. Rounding to whole numbers adds 1/sqrt(12).
    step = sample.step * np.iinfo(sample.pixels.dtype).max
    bound = np.hypot(step / np.sqrt(3), 1 / np.sqrt(12))
    if error.ndim == 3:
        bound *= np.hypot(1, 1.772)  # of ICT's three sums the one for blue (T.800 G.3.2)
    assert 0 < np.sqrt((error**2).mean()) < bound


@pytest.mark.parametrize("name", SAMPLES)
def test_a_frame_that_is_cut_off_is_an_error(tmp_path, name):
    dataset = pydicom.dcmread(path_of(name))
    (code,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([code[: len(code) * 9 // 10]])
    dataset.save_as(tmp_path / "a")
    with pytest.raises(DicomError) as caught:
        stored(tmp_path / "a")
    assert caught.value.kind == "cannot decode"
    assert str(SAMPLES[name].syntax) in caught.value.detail


def test_a_run_reads_them_all(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in SAMPLES:
        shutil.copy(path_of(name), folder)
    options = Options(workers=1, overlays="none")
    counts = predict_folder(folder, tmp_path / "out", BrightSpots(), options=options).counts
    assert (counts["processed"], counts["failed"]) == (len(SAMPLES), 0)
    assert counts["detections"] == len(SAMPLES)  # each has a bright square
