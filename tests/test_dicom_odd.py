"""Files whose headers contradict their pixels, or say too little: what they mean, and the note."""

import io
import struct

import numpy as np
import pydicom
import pytest
from dicom_factory import gdcm_transcode, image_dataset, lut, save, write
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.sequence import Sequence

from pipeline.data.intensity import Intensity
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.geometry import spacing
from pipeline.dicom.read.header import read_header
from pipeline.dicom.read.pixels import frames, read_frame
from pipeline.dicom.read.stored import frame_count

FULL = Intensity(0, 100)
RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (40, 46), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (40, 46)).astype(np.uint16)
RAMP = np.array([[0, 100, 200], [300, 400, 4095]], np.uint16)
STRETCHED = [[0, 6, 12], [19, 25, 255]]  # RAMP over its full range
RED = np.full((16, 16, 3), (200, 60, 30), np.uint8)


def items(**elements):
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return Sequence([item])


def raw(path, old, new):
    """A file some of whose bytes are others; where they are longer, so is the element."""
    content = path.read_bytes()
    assert content.count(old) == 1, content.count(old)
    path.write_bytes(content.replace(old, new))
    return path


# --- grey values


@pytest.mark.parametrize(
    ("elements", "pixels", "note"),
    [
        # 12 bits in entries of 16: 0, 1024, 2048, 4095 of 4095 and not of 65535
        (
            {"VOILUTSequence": lut([0, 1024, 2048, 4095], bits=16)},
            [[0, 64, 128, 255]],
            "wrong header: VOI LUT holds fewer bits than it declares",
        ),
        # 15 bits may be meant
        (
            {"VOILUTSequence": lut([0, 16384, 32767, 32767], bits=16)},
            [[0, 64, 127, 127]],
            "VOI LUT applied",
        ),
        (
            {
                "SOPClassUID": uid.XRayAngiographicImageStorage,
                "ModalityLUTSequence": lut([9, 3, 2, 1], bits=16),
            },
            [[0, 85, 170, 255]],
            "modality LUT of angiography not applied",
        ),
        (
            {"ModalityLUTSequence": lut([3, 2, 1, 0], bits=16)},
            [[255, 170, 85, 0]],
            "modality LUT applied",
        ),
        ({"RescaleSlope": 0, "RescaleIntercept": 7}, [[0, 85, 170, 255]],
         "wrong header: Rescale Slope 0 ignored"),
        ({"VOILUTSequence": items(), }, [[0, 85, 170, 255]], "invalid VOI LUT ignored"),
        (
            {"VOILUTSequence": items(), "WindowCenter": 1.5, "WindowWidth": 3,
             "VOILUTFunction": " linear_exact"},
            [[0, 85, 170, 255]],
            "window applied",
        ),
        ({"PhotometricInterpretation": " MONOCHROME1 "}, [[255, 170, 85, 0]],
         "inverted (MONOCHROME1)"),
        ({"PresentationLUTShape": "inverse"}, [[255, 170, 85, 0]],
         "inverted (Presentation LUT Shape INVERSE)"),
    ],
)  # fmt: skip
def test_grey_values(tmp_path, elements, pixels, note):
    path = write(tmp_path / "a", np.array([[0, 1, 2, 3]], np.uint16), **elements)
    frame = read_frame(path, FULL)
    assert frame.pixels.tolist() == pixels
    assert note in frame.notes


@pytest.mark.parametrize(
    ("centre", "width"),
    [(b"40,5", b"80  "), (b"\\40 ", b"\\80 "), (b"    ", b"80  "), (b"abcd", b"80  ")],
    ids=["decimal comma", "empty first value", "blank", "text"],
)
def test_a_window_that_is_no_number_is_ignored(tmp_path, centre, width):
    path = write(tmp_path / "a", RAMP, WindowCenter="1111", WindowWidth="2222")
    raw(raw(path, b"1111", centre), b"2222", width)
    frame = read_frame(path, FULL)
    assert frame.pixels.tolist() == STRETCHED
    assert frame.notes in (("invalid window ignored",), ())
    assert frame.notes or not centre.strip()


def test_dark_frames_of_a_bright_palette_stay_dark(tmp_path):
    """Decided by the table and not by what a frame shows of it."""
    extra = {"PhotometricInterpretation": "PALETTE COLOR"}
    bright, dark = np.array([0, 200, 40000, 65535], "<u2"), np.array([0, 20, 200, 255], "<u2")
    for name, table, expected, narrow in (
        ("bright", bright, [[0, 0], [0, 0]], False),
        ("dark", dark, [[0, 20], [20, 0]], True),
    ):
        for colour in ("Red", "Green", "Blue"):
            extra[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
            extra[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
        frame = read_frame(
            write(tmp_path / name, np.array([[0, 1], [1, 0]], np.uint8), **extra), FULL
        )
        assert frame.pixels[..., 0].tolist() == expected
        assert ("wrong header: palette declares 16 bits and holds 8" in frame.notes) == narrow


def test_ybr_full_422_in_full_length(tmp_path):
    dataset = image_dataset(RED[:1, :2].copy(), PhotometricInterpretation="YBR_FULL_422")
    dataset.PixelData = bytes([10, 128, 128, 200, 128, 128])
    frame = read_frame(save(dataset, tmp_path / "a"), FULL)
    assert frame.pixels.tolist() == [[[10, 10, 10], [200, 200, 200]]]
    assert frame.notes == ("wrong header: YBR_FULL_422 without shared chroma",)


def encapsulated(path, codestreams, syntax, pixels=RED, **elements):
    """A file of ready-made codestreams."""
    dataset = image_dataset(pixels, **elements)
    dataset.PixelData = encapsulate(codestreams)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    save(dataset, path)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)
    return path


def jpeg(image, *, jfif=True, adobe=None, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95, **options)
    content = stream.getvalue()
    if not jfif:
        length = int.from_bytes(content[4:6], "big")
        content = content[:2] + content[4 + length :]
    if adobe is not None:
        mark = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([adobe])
        content = content[:2] + mark + content[2:]
    return content


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize(
    ("options", "colour"),
    [
        ({"subsampling": 0}, "YBR"),  # JFIF is YBR
        ({"subsampling": 2}, "YBR"),
        ({"subsampling": 2, "jfif": False}, "YBR"),  # nobody shares samples of red
        ({"subsampling": 0, "jfif": False, "adobe": 1}, "RGB"),  # the decoder undoes it
        ({"keep_rgb": True}, "RGB"),
    ],
)
def test_colour_of_jpeg_is_that_of_the_codestream(tmp_path, label, options, colour):
    path = encapsulated(
        tmp_path / "a", [jpeg(RED, **options)], uid.JPEGBaseline8Bit,
        PhotometricInterpretation=label,
    )  # fmt: skip
    frame = read_frame(path, FULL)
    assert np.abs(frame.pixels.astype(int) - RED).max() <= 2
    told = () if label[:3] == colour else (f"wrong header: colour is {colour} in the codestream",)
    assert frame.notes == told


@pytest.mark.parametrize("label", ["YBR_RCT", "RGB", "YBR_FULL", "YBR_FULL_422"])
def test_jpeg_2000_is_not_transformed_twice(tmp_path, label):
    noise = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    dataset = pydicom.dcmread(
        save(
            image_dataset(noise, PhotometricInterpretation="RGB"),
            tmp_path / "a",
            uid.JPEG2000Lossless,
        )
    )
    (stream,) = generate_frames(dataset.PixelData, number_of_frames=1)
    place = stream.index(b"\xff\x52")
    assert stream[place + 8] == 0  # pydicom's encoder transforms YBR_RCT only
    dataset.PhotometricInterpretation = label
    image = Image.fromarray(noise)
    packed = io.BytesIO()
    image.save(packed, "JPEG2000", no_jp2=True, irreversible=False, mct=1)
    assert packed.getvalue()[packed.getvalue().index(b"\xff\x52") + 8] == 1
    dataset.PixelData = encapsulate([packed.getvalue()])
    dataset.save_as(tmp_path / "b")
    frame = read_frame(tmp_path / "b", FULL)
    np.testing.assert_array_equal(frame.pixels, noise)
    told = ("wrong header: colour is RGB in the codestream",) if "FULL" in label else ()
    assert frame.notes == told


# --- layouts


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("stored", "high", "note"),
    [
        (DEEP << 4, 15, "values moved down by High Bit"),
        (DEEP, 15, "wrong header: High Bit ignored"),
        (DEEP | 0xA000, 15, "wrong header: High Bit ignored"),
        (DEEP, 7, "wrong header: High Bit ignored"),
        (DEEP << 2, 13, "values moved down by High Bit"),
    ],
)
def test_high_bit(tmp_path, syntax, stored, high, note):
    dataset = image_dataset(stored.astype(np.uint16), BitsStored=12, HighBit=high)
    frame = read_frame(save(dataset, tmp_path / "a", syntax), FULL)
    plain = write(tmp_path / "b", DEEP, BitsStored=12)
    np.testing.assert_array_equal(frame.pixels, read_frame(plain, FULL).pixels)
    assert frame.notes == (note,)


def test_high_bit_of_signed_values(tmp_path):
    values = DEEP.astype(np.int16) - 2048
    high = write(tmp_path / "a", values << 4, BitsStored=12, HighBit=15)
    plain = write(tmp_path / "b", values, BitsStored=12)
    np.testing.assert_array_equal(read_frame(high, FULL).pixels, read_frame(plain, FULL).pixels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_pixels(tmp_path, dtype):
    values = np.array([[-1.5, 0.0, 0.75], [1.5, np.nan, -np.inf]], dtype)
    dataset = image_dataset(values.view(f"u{values.itemsize}").astype(np.uint8))
    keyword = "FloatPixelData" if dtype == np.float32 else "DoubleFloatPixelData"
    for gone in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, gone)
    dataset.BitsAllocated = 8 * values.itemsize
    setattr(dataset, keyword, values.tobytes())
    frame = read_frame(save(dataset, tmp_path / "a"), FULL)
    assert frame.pixels.tolist() == [[0, 128, 191], [255, 0, 0]]
    assert frame.limits == (-1.5, 1.5)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_a_jpeg_of_8_bits_in_an_image_of_16(tmp_path, syntax):
    wide = {"BitsStored": 12, "HighBit": 11}
    path = encapsulated(tmp_path / "a", [jpeg(GREY)], syntax, GREY.astype(np.uint16), **wide)
    plain = encapsulated(tmp_path / "b", [jpeg(GREY)], uid.JPEGBaseline8Bit, GREY)
    frame = read_frame(path, FULL)
    np.testing.assert_array_equal(frame.pixels, read_frame(plain, FULL).pixels)
    assert frame.notes == ("wrong header: codestream of 8 bits in an image of 16",)


def test_a_lossless_jpeg_of_8_bits_in_an_image_of_16(tmp_path):
    gdcm_transcode(write(tmp_path / "plain", GREY), tmp_path / "a", uid.JPEGLosslessSV1)
    dataset = pydicom.dcmread(tmp_path / "a")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.save_as(tmp_path / "b")
    np.testing.assert_array_equal(read_frame(tmp_path / "b", FULL).pixels, GREY)


STACK = RNG.integers(0, 256, (3, 40, 46), dtype=np.uint8)
MORE = ("wrong header: more frames than announced",)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
    ],
)
@pytest.mark.parametrize("announced", [None, 1, 2])
def test_more_frames_than_announced_are_read(tmp_path, syntax, announced):
    dataset = pydicom.dcmread(save(image_dataset(STACK, 3), tmp_path / "a", syntax))
    dataset.NumberOfFrames = announced
    dataset.save_as(tmp_path / "b")
    found = list(frames(tmp_path / "b", FULL))
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in found]), STACK)
    assert {frame.notes for frame in found} == {MORE}
    assert frame_count(read_header(tmp_path / "b")) == 3


@pytest.mark.parametrize(
    ("side", "more", "count"),
    [(17, 1, 1), (17, 2, 1), (17, 287, 1), (17, 289, 2), (17, 291, 1), (5, 25, 1)],
)
def test_padding_is_no_frame(tmp_path, side, more, count):
    """A frame of 17 by 17 has 289 bytes; lengths are even."""
    dataset = image_dataset(GREY[:side, :side].copy())
    dataset.PixelData = GREY[:side, :side].tobytes() + bytes(more)
    assert frame_count(read_header(save(dataset, tmp_path / "a"))) == count


@pytest.mark.parametrize("table", ["basic", "extended"])
@pytest.mark.parametrize("offset", [0, 2, 10, 10**6])
def test_a_wrong_offset_table_is_ignored(tmp_path, table, offset):
    path = save(image_dataset(STACK, 3), tmp_path / "a", uid.JPEGLSLossless)
    dataset = pydicom.dcmread(path)
    streams = list(generate_frames(dataset.PixelData, number_of_frames=3))
    if table == "basic":
        packed = bytearray(encapsulate(streams))
        (last,) = struct.unpack("<I", packed[16:20])
        packed[16:20] = struct.pack("<I", last + offset)
        dataset.PixelData = bytes(packed)
    else:
        packed, offsets, lengths = encapsulate_extended(streams)
        last = struct.unpack("<3Q", offsets)[2] + offset
        dataset.PixelData, dataset.ExtendedOffsetTableLengths = packed, lengths
        dataset.ExtendedOffsetTable = offsets[:16] + struct.pack("<Q", last)
    dataset.save_as(path)
    found = list(frames(path, FULL))
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in found]), STACK)
    assert {frame.notes for frame in found} == {
        ("wrong header: offset table ignored",) if offset else ()
    }
    np.testing.assert_array_equal(read_frame(path, FULL, 2).pixels, STACK[2])


def test_frames_in_several_fragments(tmp_path):
    path = save(image_dataset(STACK, 3), tmp_path / "a", uid.JPEGLSLossless)
    dataset = pydicom.dcmread(path)
    streams = list(generate_frames(dataset.PixelData, number_of_frames=3))
    for has_table in (True, False):
        dataset.PixelData = encapsulate(streams, fragments_per_frame=3, has_bot=has_table)
        dataset.save_as(path)
        found = list(frames(path, FULL))
        np.testing.assert_array_equal(np.stack([frame.pixels for frame in found]), STACK)
        assert {frame.notes for frame in found} == {()}


def test_frames_that_nothing_tells_apart(tmp_path):
    path = save(image_dataset(STACK, 3), tmp_path / "a", uid.RLELossless)
    dataset = pydicom.dcmread(path)
    streams = list(generate_frames(dataset.PixelData, number_of_frames=3))
    dataset.PixelData = encapsulate(streams, fragments_per_frame=2, has_bot=False)
    dataset.save_as(path)
    with pytest.raises(DicomError, match="nothing tells its frames apart"):
        list(frames(path, FULL))


# --- geometry

IMAGER = {"ImagerPixelSpacing": [0.2, 0.1]}
DETECTOR = "ImagerPixelSpacing (at the detector)"
DIVIDED = "ImagerPixelSpacing / EstimatedRadiographicMagnificationFactor"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, None),
        (IMAGER, (0.2, 0.1, DETECTOR)),
        (IMAGER | {"PixelSpacing": [0.16, 0.08]}, (0.16, 0.08, "PixelSpacing")),
        (
            IMAGER | {"PixelSpacing": [0.2, 0.1]},
            (0.2, 0.1, "PixelSpacing = ImagerPixelSpacing (at the detector)"),
        ),
        (
            IMAGER | {"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "GEOMETRY"},
            (0.2, 0.1, "PixelSpacing"),
        ),
        (IMAGER | {"EstimatedRadiographicMagnificationFactor": 1.25}, (0.16, 0.08, DIVIDED)),
        (
            IMAGER | {"PixelSpacing": [0.2, 0.1], "EstimatedRadiographicMagnificationFactor": 1.25},
            (0.16, 0.08, DIVIDED),
        ),
        (IMAGER | {"EstimatedRadiographicMagnificationFactor": 0}, (0.2, 0.1, DETECTOR)),
        ({"EstimatedRadiographicMagnificationFactor": 1.25}, None),
        ({"PixelSpacing": [0.3, 0.3]}, (0.3, 0.3, "PixelSpacing")),
    ],
)
def test_millimetres(tmp_path, elements, expected):
    found = spacing(read_header(write(tmp_path / "a", GREY, **elements)))
    if expected is None:
        assert found is None
    else:
        assert (found.row, found.column) == pytest.approx(expected[:2])
        assert found.source == expected[2]


# --- meta information


def test_deflated_without_the_length_of_its_meta_information(tmp_path):
    path = save(image_dataset(GREY), tmp_path / "a", uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    assert content[132:140] == b"\x02\0\0\0UL\x04\0"
    path.write_bytes(content[:132] + content[144:])
    np.testing.assert_array_equal(read_frame(path, FULL).pixels, GREY)


def test_a_native_file_that_mentions_the_deflated_syntax(tmp_path):
    mention = {"SeriesDescription": f"was {uid.DeflatedExplicitVRLittleEndian}"}
    path = write(tmp_path / "a", GREY, **mention)
    assert read_header(path).syntax == uid.ExplicitVRLittleEndian
    np.testing.assert_array_equal(read_frame(path, FULL).pixels, GREY)


def test_spaces_around_uids(tmp_path):
    path = write(tmp_path / "a", GREY, SOPClassUID=uid.CTImageStorage)
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1 ")
    path.write_bytes(content)
    assert read_header(path).syntax == uid.ExplicitVRLittleEndian
