"""What other programs have encoded is read as other programs decode it.

dcmtk encodes and decodes JPEG, JPEG-LS and RLE by code of its own; JPEG 2000, which it has not, is
decoded by GDCM here and by OpenJPEG of pylibjpeg in the pipeline.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import write
from object_factory import program
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.pixels import pixel_array

from pipeline.data.intensity import Intensity
from pipeline.dicom.read.header import pixel_stream, read_header
from pipeline.dicom.read.pixels import read_frame
from pipeline.dicom.read.stored import pixel_layout, stored_frames

Y, X = np.mgrid[:48, :64]
NOISE = np.random.default_rng(5).integers(0, 2**16, (48, 64))
GREY8 = (NOISE >> 8).astype(np.uint8)
GREY12 = ((X + Y) * 36 + NOISE % 50).astype(np.uint16)  # smooth, for lossy coding
GREY16 = NOISE.astype(np.uint16)
SIGNED12 = ((NOISE >> 4) - 2048).astype(np.int16)
SIGNED16 = (NOISE - 2**15).astype(np.int16)
RGB = np.dstack([X * 4, Y * 5, (X + Y) * 2]).astype(np.uint8)
PICTURES = {
    "8 bits": (GREY8, {}),
    "12 bits": (GREY12, {"BitsStored": 12}),
    "16 bits": (GREY16, {}),
    "signed 12 bits": (SIGNED12, {"BitsStored": 12}),
    "signed 16 bits": (SIGNED16, {}),
    "RGB": (RGB, {}),
}
LOSSLESS = {
    uid.JPEGLossless: ("dcmcjpeg", "+el"),
    uid.JPEGLosslessSV1: ("dcmcjpeg", "+e1"),
    uid.JPEGLSLossless: ("dcmcjpls", "+el"),
    uid.RLELossless: ("dcmcrle",),
    uid.ExplicitVRBigEndian: ("dcmconv", "+tb"),
    uid.DeflatedExplicitVRLittleEndian: ("dcmconv", "+td"),
}
LOSSY = [
    (uid.JPEGBaseline8Bit, ("dcmcjpeg", "+eb"), "8 bits"),
    (uid.JPEGBaseline8Bit, ("dcmcjpeg", "+eb"), "RGB"),
    (uid.JPEGExtended12Bit, ("dcmcjpeg", "+ee"), "8 bits"),
    (uid.JPEGExtended12Bit, ("dcmcjpeg", "+ee"), "12 bits"),
    (uid.JPEGLSNearLossless, ("dcmcjpls", "+en"), "8 bits"),
    (uid.JPEGLSNearLossless, ("dcmcjpls", "+en"), "16 bits"),
    (uid.JPEGLSNearLossless, ("dcmcjpls", "+en"), "RGB"),
]
DECODERS = {
    **dict.fromkeys(uid.JPEGTransferSyntaxes, "dcmdjpeg"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "dcmdjpls"),
    uid.RLELossless: "dcmdrle",
}


def stored(path):
    """Stored values of all frames as the pipeline reads them, and the transfer syntax."""
    header = read_header(path)
    with pixel_stream(header) as stream:
        frames = stored_frames(header, pixel_layout(header, stream), stream)
        return np.stack([pixels for pixels, _ in frames]), header.syntax


def converted(command, source, target):
    """A file as a program of dcmtk's has made it of another."""
    name, *options = command
    call = [program(name, "dcmtk"), *options, source, target]
    subprocess.run(call, check=True, capture_output=True)
    return target


def decoded(path, syntax, folder):
    """Stored values of all frames as another program reads them."""
    if syntax in DECODERS:
        return pixel_array(converted((DECODERS[syntax],), path, folder / "decoded"))
    if syntax in uid.JPEG2000TransferSyntaxes:
        return pixel_array(path, decoding_plugin="gdcm")
    return pixel_array(converted(("dcmconv", "+te"), path, folder / "decoded"))


@pytest.mark.parametrize("syntax", LOSSLESS, ids=str)
@pytest.mark.parametrize("name", PICTURES)
def test_lossless_codings_of_dcmtk_are_read_exactly(tmp_path, syntax, name):
    pixels, extra = PICTURES[name]
    plain = write(tmp_path / "plain", pixels, **extra)
    found, is_in = stored(converted(LOSSLESS[syntax], plain, tmp_path / "a"))
    assert is_in == syntax
    np.testing.assert_array_equal(found[0], pixels)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=str)
def test_frames_of_dcmtk_keep_their_order(tmp_path, syntax):
    stack = np.stack([SIGNED16, SIGNED16[::-1], SIGNED16[:, ::-1]])
    many = {"SOPClassUID": uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage}
    plain = write(tmp_path / "plain", stack, 3, **many)
    found, _ = stored(converted(LOSSLESS[syntax], plain, tmp_path / "a"))
    np.testing.assert_array_equal(found, stack)


@pytest.mark.parametrize(("syntax", "command", "name"), LOSSY)
def test_lossy_codings_of_dcmtk_are_read_as_dcmtk_reads_them(tmp_path, syntax, command, name):
    pixels, extra = PICTURES[name]
    path = converted(command, write(tmp_path / "plain", pixels, **extra), tmp_path / "a")
    found, is_in = stored(path)
    assert is_in == syntax
    assert (found[0] != pixels).any()  # it is lossy
    other = decoded(path, syntax, tmp_path).astype(int)
    allowed = 0 if syntax == uid.JPEGLSNearLossless else 1  # JPEG leaves rounding to the decoder
    assert np.abs(found[0] - other).max() <= allowed


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI.dcm",  # 14 bits, signed, with padding
        "ExplVR_BigEnd.dcm",
        "GDCMJ2K_TextGBR.dcm",  # YBR_RCT
        "J2K_pixelrep_mismatch.dcm",
        "JPEG2000.dcm",
        "JPEGLSNearLossless_08.dcm",
        "JPEGLSNearLossless_16.dcm",
        "JPGExtended.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",  # RGB within JPEG
        "SC_rgb_dcmtk_+eb+cy+n2.dcm",  # YBR_FULL, chroma 4:1:1
        "SC_rgb_dcmtk_+eb+cy+s2.dcm",  # YBR_FULL_422
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_jls_lossy_sample.dcm",
        "SC_rgb_jpeg_gdcm.dcm",  # JPEG lossless
        "SC_rgb_rle_16bit_2frame.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "examples_jpeg2k.dcm",
        "image_dfl.dcm",
    ],
)
def test_files_of_other_makers_are_read_as_others_read_them(tmp_path, name):
    path = Path(get_testdata_file(name, download=False) or pytest.skip(f"no {name} here"))
    found, syntax = stored(path)
    other = decoded(path, syntax, tmp_path).reshape(found.shape).astype(int)
    lossy = syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
    assert np.abs(found - other).max() <= (1 if lossy else 0)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("examples_palette.dcm", 0),
        ("examples_ybr_color.dcm", 1),  # YBR_FULL_422 within JPEG, 30 frames
        ("SC_ybr_full_422_uncompressed.dcm", 1),  # dcmtk cuts off where others round
    ],
)
def test_colours_are_those_that_dcmtk_shows(tmp_path, name, allowed):
    path = Path(get_testdata_file(name, download=False) or pytest.skip(f"no {name} here"))
    picture = converted(("dcmj2pnm", "--write-raw-pnm"), path, tmp_path / "a.ppm")
    with Image.open(picture) as opened:
        shown = np.asarray(opened).astype(int)
    assert np.abs(shown - read_frame(path, Intensity()).pixels).max() <= allowed
