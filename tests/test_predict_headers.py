"""What a run tells of headers that are wrong, or that other headers contradict."""

import json

import numpy as np
import pytest
from dicom_factory import ROOT, image_dataset, save, write
from predict_factory import BrightSpots, Stops, rows_of, spot
from pydicom import uid

from pipeline.predict.options import Objects, Options
from pipeline.predict.run import predict_folder

HERE = Options(workers=0, overlays="none", objects=Objects(kinds=("sr",)))


def ran(folder, options=HERE):
    summary = predict_folder(folder, folder / "out", BrightSpots(), options=options)
    rows = rows_of(folder / "out" / "warnings.csv")
    return summary.counts, [(row["path"], row["kind"], row["message"]) for row in rows]


def test_a_wrong_header_is_told_of_its_file(tmp_path):
    write(tmp_path / "a", spot().astype(np.uint16) << 4, BitsStored=12, HighBit=15)
    write(tmp_path / "b", spot().astype(np.uint16), BitsStored=12, HighBit=15)
    other = {"SOPInstanceUID": ROOT + "9", "RescaleSlope": 0}
    write(tmp_path / "c", spot(), **other)
    counts, warned = ran(tmp_path, Options(workers=0))
    assert ("b", "wrong header", "High Bit ignored") in warned
    assert ("c", "wrong header", "Rescale Slope 0 ignored") in warned
    assert not [row for row in warned if row[0] == "a"]
    assert counts["decoding_notes"]["values moved down by High Bit"] == 1
    assert counts["decoding_notes"]["wrong header: High Bit ignored"] == 1
    assert counts["warnings"]["wrong header"] == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Rescale Slope 0 ignored" in page


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_files_of_one_uid(tmp_path, syntax):
    """Copies are one image, in whatever transfer syntax; other pixels are another."""
    write(tmp_path / "a", spot())
    save(image_dataset(spot()), tmp_path / "b", syntax)
    save(image_dataset(spot(at=(5, 5, 9, 9))), tmp_path / "c", syntax)
    counts, warned = ran(tmp_path)
    assert [(path, kind) for path, kind, _ in warned] == [("c", "same UID, other pixels")]
    assert counts["dicom_objects"]["sr"] == 2
    assert counts["processed"] == 3


def test_twins_are_known_across_a_stop(tmp_path):
    write(tmp_path / "a", spot())
    for name in "bcd":
        write(tmp_path / name, spot(), SOPInstanceUID=f"{ROOT}9.{ord(name)}")
    write(tmp_path / "e", spot(at=(5, 5, 9, 9)))
    options = Options(workers=0, overlays="none", batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(tmp_path, tmp_path / "out", Stops(), options=options)
    predict_folder(tmp_path, tmp_path / "out", BrightSpots(), options=options)
    (row,) = rows_of(tmp_path / "out" / "warnings.csv")
    assert (row["path"], row["kind"]) == ("e", "same UID, other pixels")


def test_values_of_the_detector_are_told(tmp_path):
    mammogram = uid.DigitalMammographyXRayImageStorageForProcessing
    for name, more in (
        ("a", {"PresentationIntentType": "FOR PROCESSING"}),
        ("b", {"PresentationIntentType": "FOR PRESENTATION"}),
        ("c", {"SOPClassUID": mammogram}),
    ):
        write(tmp_path / name, spot(), SOPInstanceUID=f"{ROOT}9.{ord(name)}", **more)
    _, warned = ran(tmp_path)
    assert [(path, kind) for path, kind, _ in warned] == [
        ("a", "for processing"),
        ("c", "for processing"),
    ]


def test_more_frames_than_announced_have_no_name_in_objects(tmp_path):
    dataset = image_dataset(np.stack([spot()] * 3), 3)
    dataset.NumberOfFrames = 1
    save(dataset, tmp_path / "a")
    counts, warned = ran(tmp_path)
    assert (counts["frames"], counts["dicom_objects"]["sr"]) == (3, 0)
    assert warned == [
        ("a", "wrong header", "more frames than announced"),
        ("a", "no object written", "it has more frames than its header announces"),
    ]
    rows = rows_of(tmp_path / "out" / "detections.csv")
    assert [row["frame"] for row in rows] == ["1", "2", "3"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["counts"]["frames"] == 3
