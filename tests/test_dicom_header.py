import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import image_dataset, save, write
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)

from pipeline.dicom.errors import DicomError
from pipeline.dicom.read import parse
from pipeline.dicom.read.header import read_header
from pipeline.dicom.read.parse import looks_like_dicom

PIXELS = np.arange(16, dtype=np.uint8).reshape(4, 4)


def kind_of(path):
    with pytest.raises(DicomError) as caught:
        read_header(path)
    return caught.value.kind


def bundled(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not bundle {name}")
    return Path(path)


def test_only_harmless_elements_are_kept(tmp_path):
    path = write(
        tmp_path / "a",
        PIXELS,
        PatientName="Wintergreen^Ada",
        PatientID="4711",
        PatientBirthDate="19010203",
        InstitutionName="St. Elsewhere",
        AccessionNumber="ACC9",
        ViewPosition="PA",
    )
    header = read_header(path)
    text = str(header.dataset)
    assert "PatientName" not in header.dataset
    assert not any(word in text for word in ("Wintergreen", "4711", "1901", "Elsewhere", "ACC9"))
    assert header.text("ViewPosition") == "PA"
    assert header.element.keyword == "PixelData"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_syntax_and_offset_of_the_pixels(tmp_path, syntax):
    path = save(image_dataset(PIXELS), tmp_path / "a", syntax)
    header = read_header(path)
    content = path.read_bytes()
    assert header.syntax == syntax
    assert content[header.element.offset :][: header.element.length] == PIXELS.tobytes()


def test_files_without_preamble_or_meta_information_are_read(tmp_path):
    whole = write(tmp_path / "a", PIXELS).read_bytes()
    meta_length = struct.unpack("<I", whole[140:144])[0]
    (tmp_path / "no_preamble").write_bytes(whole[132:])
    (tmp_path / "no_meta").write_bytes(whole[144 + meta_length :])
    for name in ("no_preamble", "no_meta"):
        assert read_header(tmp_path / name).number("Rows") == 4


def test_not_dicom(tmp_path):
    for name, content in (("empty", b""), ("text", b"hello " * 99), ("zero", bytes(500))):
        (tmp_path / name).write_bytes(content)
        assert kind_of(tmp_path / name) == "not DICOM"


def test_objects_that_are_not_images():
    for name in ("test-SR.dcm", "rtplan.dcm", "rtdose.dcm", "waveform_ecg.dcm", "rtstruct.dcm"):
        assert kind_of(bundled(name)) == "not an image object"


def test_segmentations_are_not_images_although_they_have_pixels(tmp_path):
    path = write(tmp_path / "a", PIXELS, SOPClassUID=SegmentationStorage)
    with pytest.raises(DicomError, match="not an image object: Segmentation Storage"):
        read_header(path)


def test_image_without_pixels(tmp_path):
    dataset = image_dataset(PIXELS)
    del dataset.PixelData
    assert kind_of(save(dataset, tmp_path / "a")) == "no pixel data"


def test_header_cut_off_before_the_pixels(tmp_path):
    path = write(tmp_path / "a", PIXELS)
    path.write_bytes(path.read_bytes()[:-30])
    assert kind_of(path) == "no pixel data"


def test_deflated_bomb_is_refused_without_inflating_it(tmp_path, monkeypatch):
    path = save(image_dataset(PIXELS), tmp_path / "a", DeflatedExplicitVRLittleEndian)
    assert read_header(path).element.length == 16
    whole = path.read_bytes()
    body = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = body.compress(bytes(2**22)) + body.flush()
    path.write_bytes(whole[: 144 + struct.unpack("<I", whole[140:144])[0]] + bomb)
    monkeypatch.setattr(parse, "MAX_INFLATED", 2**20)
    assert kind_of(path) == "too large"


def test_malformed_number_is_named_but_not_quoted(tmp_path, caplog, recwarn):
    path = write(tmp_path / "a", PIXELS, NumberOfFrames=1)
    path.write_bytes(
        path.read_bytes().replace(b"\x28\0\x08\0IS\x02\x001 ", b"\x28\0\x08\0IS\x02\0J.")
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(DicomError) as caught:
        _ = read_header(path).frame_count
    assert str(caught.value) == "cannot decode: NumberOfFrames is not a whole number"
    assert not recwarn.list
    assert not caplog.records


def test_sniffing():
    assert looks_like_dicom(bytes(128) + b"DICM")
    assert looks_like_dicom(b"\x08\0\x05\0CS\x0a\0ISO_IR 100")
    assert looks_like_dicom(b"\0\x08\0\x05CS\0\x0aISO_IR 100")
    assert not looks_like_dicom(b"\x08\0\x05\0cs\x0a\1ISO_IR 100")
    assert not looks_like_dicom(b"MZ" + bytes(500))
