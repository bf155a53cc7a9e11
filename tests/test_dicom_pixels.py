import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import gdcm_transcode, image_dataset, save, write
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder

from pipeline.data.intensity import Intensity, to_uint8
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.codestream import rle_segments
from pipeline.dicom.read.decoders import PLUGINS
from pipeline.dicom.read.header import read_header
from pipeline.dicom.read.pixels import frames, read_frame

RNG = np.random.default_rng(7)
GREY8 = RNG.integers(0, 256, (40, 47), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (40, 47)).astype(np.uint16)
RGB = RNG.integers(0, 256, (40, 46, 3), dtype=np.uint8)
FULL = Intensity(0, 100)


def bundled(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not bundle {name}")
    return Path(path)


def failure(path, **kwargs):
    with pytest.raises(DicomError) as caught:
        list(frames(path, FULL, **kwargs))
    return caught.value


def test_plain_8_bit_monochrome2_is_the_stored_image(tmp_path):
    frame = read_frame(write(tmp_path / "a", GREY8), Intensity())
    np.testing.assert_array_equal(frame.pixels, GREY8)
    assert frame.pixels.dtype == np.uint8
    assert (frame.index, frame.notes) == (0, ())


def test_16_bit_without_window_equals_the_exported_png(tmp_path):
    frame = read_frame(write(tmp_path / "a", GREY16), Intensity())
    np.testing.assert_array_equal(frame.pixels, to_uint8(GREY16, Intensity()))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("window", [True, False])
def test_monochrome1_and_its_monochrome2_twin_are_identical(tmp_path, bits, window):
    top = 2**bits - 1
    stored = RNG.integers(0, top + 1, (33, 27)).astype(np.uint8 if bits == 8 else np.uint16)
    twin = (top - stored).astype(stored.dtype)
    # LINEAR is not symmetric: the mirror of centre c is top - c + 1 (PS3.3 C.11.2.1.2.1).
    centre = top // 3
    windows = ({}, {})
    if window:
        windows = tuple({"WindowCenter": c, "WindowWidth": 90} for c in (centre, top - centre + 1))
    two = write(tmp_path / "2", stored, BitsStored=bits, **windows[0])
    one = write(
        tmp_path / "1", twin, BitsStored=bits, PhotometricInterpretation="MONOCHROME1", **windows[1]
    )
    np.testing.assert_array_equal(
        read_frame(one, Intensity()).pixels, read_frame(two, Intensity()).pixels
    )


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME1", "INVERSE", True),  # two ways to say one thing: once, not twice
    ],
)
def test_inverted_at_most_once(tmp_path, photometric, shape, inverted):
    extra = {"PresentationLUTShape": shape} if shape else {}
    path = write(tmp_path / "a", GREY8, PhotometricInterpretation=photometric, **extra)
    expected = 255 - GREY8 if inverted else GREY8
    np.testing.assert_array_equal(read_frame(path, Intensity()).pixels, expected)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
    ],
)
@pytest.mark.parametrize("pixels", [GREY8, GREY16, RGB], ids=["grey8", "grey16", "rgb"])
def test_lossless_encodings_of_one_image_are_identical(tmp_path, syntax, pixels):
    plain = write(tmp_path / "plain", pixels)
    expected = read_frame(plain, Intensity()).pixels
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        path = gdcm_transcode(plain, tmp_path / "a", syntax)
    else:
        path = save(image_dataset(pixels), tmp_path / "a", syntax)
    assert read_header(path).syntax == syntax
    np.testing.assert_array_equal(read_frame(path, Intensity()).pixels, expected)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_signed_12_bit_survives_compression(tmp_path, syntax):
    pixels = RNG.integers(-2048, 2048, (40, 42)).astype(np.int16)
    plain = write(tmp_path / "plain", pixels, BitsStored=12)
    path = save(image_dataset(pixels, BitsStored=12), tmp_path / "a", syntax)
    expected = to_uint8(pixels, FULL)
    np.testing.assert_array_equal(read_frame(plain, FULL).pixels, expected)
    np.testing.assert_array_equal(read_frame(path, FULL).pixels, expected)


def test_unused_high_bits_are_ignored(tmp_path):
    dirty = (GREY16 & 0x0FFF) | 0xA000
    path = write(tmp_path / "a", dirty, BitsStored=12)
    clean = write(tmp_path / "b", GREY16 & 0x0FFF, BitsStored=12)
    np.testing.assert_array_equal(read_frame(path, FULL).pixels, read_frame(clean, FULL).pixels)


def test_few_bits_span_the_full_range(tmp_path):
    path = write(tmp_path / "a", np.array([[0, 1], [2, 3]], np.uint8), BitsStored=2)
    assert read_frame(path, Intensity()).pixels.tolist() == [[0, 85], [170, 255]]
    path = write(tmp_path / "b", np.array([[-128, 0], [127, -1]], np.int8))
    assert read_frame(path, Intensity()).pixels.tolist() == [[0, 128], [255, 127]]


def test_big_endian_8_bit_words_are_swapped(tmp_path):
    dataset = image_dataset(GREY8[:, :46].copy())
    raw = np.frombuffer(dataset.PixelData, "u2").byteswap().tobytes()
    dataset.PixelData = raw
    dataset["PixelData"].VR = "OW"
    path = save(dataset, tmp_path / "a", uid.ExplicitVRBigEndian)
    np.testing.assert_array_equal(read_frame(path, Intensity()).pixels, GREY8[:, :46])


def test_colour(tmp_path):
    np.testing.assert_array_equal(read_frame(write(tmp_path / "a", RGB), FULL).pixels, RGB)
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    dataset = image_dataset(RGB, PlanarConfiguration=1)
    dataset.PixelData = planes.tobytes()
    path = save(dataset, tmp_path / "b")
    np.testing.assert_array_equal(read_frame(path, FULL).pixels, RGB)


def test_ybr_full_becomes_rgb(tmp_path):
    # Grey in YBR has chroma 128; pure red is about (76, 85, 255) (PS3.3 C.7.6.3.1.2).
    ybr = np.array([[[100, 128, 128], [76, 85, 255]]], np.uint8)
    path = write(tmp_path / "a", ybr, PhotometricInterpretation="YBR_FULL")
    rgb = read_frame(path, FULL).pixels
    assert rgb[0, 0].tolist() == [100, 100, 100]
    assert np.abs(rgb[0, 1].astype(int) - [255, 0, 0]).max() <= 1


def test_ybr_full_422_shares_chroma_between_two_pixels(tmp_path):
    dataset = image_dataset(RGB[:1, :2].copy(), PhotometricInterpretation="YBR_FULL_422")
    dataset.PixelData = bytes([10, 200, 128, 128])
    path = save(dataset, tmp_path / "a")
    assert read_frame(path, FULL).pixels.tolist() == [[[10, 10, 10], [200, 200, 200]]]


def test_palette_of_8_and_16_bits(tmp_path):
    index = np.array([[0, 1], [2, 3]], np.uint8)
    for bits, shift in ((8, 0), (16, 8)):
        dataset = image_dataset(index, PhotometricInterpretation="PALETTE COLOR")
        for number, colour in enumerate(("Red", "Green", "Blue")):
            table = (np.array([0, 10, 20, 200], np.uint16) + number) << shift
            stem = f"{colour}PaletteColorLookupTable"
            setattr(dataset, stem + "Descriptor", [4, 0, bits])
            setattr(dataset, stem + "Data", table.astype("u1" if bits == 8 else "<u2").tobytes())
        rgb = read_frame(save(dataset, tmp_path / str(bits)), FULL).pixels
        assert rgb.tolist() == [[[0, 1, 2], [10, 11, 12]], [[20, 21, 22], [200, 201, 202]]]


@pytest.mark.parametrize(
    "syntax", [None, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless]
)
def test_frames_come_one_at_a_time_and_in_order(tmp_path, syntax):
    stack = RNG.integers(0, 16, (5, 40, 44), dtype=np.uint8)
    path = save(image_dataset(stack, 5), tmp_path / "a", syntax or uid.ExplicitVRLittleEndian)
    found = list(frames(path, Intensity()))
    assert [frame.index for frame in found] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in found]), stack)
    np.testing.assert_array_equal(read_frame(path, Intensity(), 3).pixels, stack[3])
    with pytest.raises(IndexError, match="frame 5 of 5"):
        read_frame(path, Intensity(), 5)


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    stack = np.zeros((200, 64, 64), np.uint16)
    path = write(tmp_path / "a", stack, 200)
    list(frames(path, Intensity()))  # imports and caches
    tracemalloc.start()
    for _ in frames(path, Intensity()):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All 200 frames together are 1.6 MB as stored; holding them would show.
    one = write(tmp_path / "b", stack[0])
    tracemalloc.start()
    list(frames(one, Intensity()))
    _, single = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < single + 200_000


def test_twelve_bit_jpeg_extended_is_decoded():
    pixels = read_frame(bundled("JPGExtended.dcm"), FULL).pixels
    assert pixels.shape == (1024, 256)
    stored = pydicom.dcmread(bundled("JPEG2000.dcm")).pixel_array  # the same patient, other codec
    assert np.corrcoef(pixels.ravel(), stored.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("syntax", sorted(PLUGINS))
def test_the_chosen_decoder_is_installed(syntax):
    from pipeline.dicom.read.decoders import decoder_for

    assert PLUGINS[syntax] in decoder_for(uid.UID(syntax)).available_plugins


def test_result_does_not_depend_on_other_plugins(tmp_path, monkeypatch):
    path = save(image_dataset(GREY8), tmp_path / "a", uid.JPEG2000Lossless)
    decoder = get_decoder(uid.JPEG2000Lossless)
    asked = []
    real = decoder._validate_plugins
    monkeypatch.setattr(decoder, "_validate_plugins", lambda p: asked.append(p) or real(p))
    read_frame(path, FULL)
    assert asked == ["pylibjpeg"]


def test_truncated_files_say_so(tmp_path):
    path = write(tmp_path / "native", GREY16)
    path.write_bytes(path.read_bytes()[:-7])
    error = failure(path)
    assert error.kind == "truncated"
    assert error.detail == "Explicit VR Little Endian (1.2.840.10008.1.2.1): 3753 of 3760 bytes"
    path = save(image_dataset(GREY16), tmp_path / "packed", uid.JPEGLSLossless)
    path.write_bytes(path.read_bytes()[:-200])
    assert failure(path).kind == "truncated"


@pytest.mark.parametrize(
    "syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1, uid.RLELossless]
)
def test_damaged_codestreams_are_errors_not_pictures(tmp_path, syntax):
    plain = write(tmp_path / "plain", GREY16)
    if syntax == uid.JPEGLosslessSV1:
        path = gdcm_transcode(plain, tmp_path / "a", syntax)
    else:
        path = save(image_dataset(GREY16), tmp_path / "a", syntax)
    dataset = pydicom.dcmread(path)
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    dataset.save_as(path)
    error = failure(path)
    assert error.kind == "cannot decode"
    assert str(syntax) in error.detail


def test_absurd_sizes_are_refused_before_allocation(tmp_path):
    for extra in (
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 60000},
        {"NumberOfFrames": 2**31 - 1},
    ):
        path = write(tmp_path / "a", GREY8, **extra)
        tracemalloc.start()
        assert failure(path).kind in ("too large", "truncated")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10_000_000


def test_codestream_larger_than_the_header_says_is_refused(tmp_path):
    big = save(image_dataset(np.zeros((900, 900), np.uint8)), tmp_path / "a", uid.JPEG2000Lossless)
    dataset = pydicom.dcmread(big)
    dataset.Rows = dataset.Columns = 9
    dataset.save_as(big)
    error = failure(big)
    assert error.kind == "cannot decode"
    assert "900 rows, 900 columns" in error.detail


@pytest.mark.parametrize(
    ("extra", "kind", "detail"),
    [
        ({"BitsAllocated": 12}, "cannot decode", "Bits Allocated is 12"),
        ({"BitsStored": 9}, "cannot decode", "Bits Stored is 9"),
        ({"HighBit": 8}, "cannot decode", "High Bit is 8"),
        ({"Rows": 0}, "cannot decode", "Rows is 0"),
        ({"SamplesPerPixel": 4}, "cannot decode", "Samples per Pixel is 4"),
        (
            {"PhotometricInterpretation": "ARGB"},
            "unsupported photometric interpretation",
            "an unknown one with 1 samples per pixel",
        ),
        (
            {"PhotometricInterpretation": "RGB"},
            "unsupported photometric interpretation",
            "RGB with 1 samples per pixel",
        ),
    ],
)
def test_contradictory_headers(tmp_path, extra, kind, detail):
    error = failure(write(tmp_path / "a", GREY8, **extra))
    assert (error.kind, error.detail) == (kind, detail)


def test_missing_rows(tmp_path):
    dataset = image_dataset(GREY8)
    del dataset.Rows
    assert str(failure(save(dataset, tmp_path / "a"))) == "cannot decode: Rows is missing"


def test_video_has_no_decoder(tmp_path):
    path = save(image_dataset(GREY8), tmp_path / "a", uid.RLELossless)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    dataset.save_as(path)
    assert failure(path).detail.startswith("no decoder for transfer syntax MPEG2")


def test_lossy_overshoot_stays_white(tmp_path, monkeypatch):
    from pipeline.dicom.read import decoders

    class Overshooting:
        def as_array(self, *args, **kwargs):
            assert kwargs["correct_unused_bits"] is False
            return np.array([[1023, 1026]], np.uint16), {}

    monkeypatch.setattr(decoders, "decoder_for", lambda syntax: Overshooting())
    monkeypatch.setattr(decoders, "_checked", lambda *args: None)
    options = {"bits_stored": 10, "bits_allocated": 16, "samples_per_pixel": 1}
    pixels, _ = decoders.decode_compressed(b"\0\0", uid.JPEGExtended12Bit, options)
    assert pixels.tolist() == [[1023, 1023]]


def test_rle_header_is_checked():
    def header(*numbers):
        return struct.pack("<16I", *numbers, *[0] * (16 - len(numbers))) + bytes(100)

    assert rle_segments(header(1, 64)) == 1
    assert rle_segments(header(3, 64, 90, 120)) == 3
    for damaged in ((99, 64), (0,), (1, 65), (2, 64, 64), (2, 64, 999), (1, 64, 80)):
        assert rle_segments(header(*damaged)) is None
    assert rle_segments(bytes(63)) is None
