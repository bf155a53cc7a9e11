import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import ROOT, image_dataset, save, write
from PIL import Image
from predict_factory import BrightSpots, Found, Stops, content, rows_of, spot
from pycocotools.coco import COCO
from pydicom import uid
from pydicom.data import get_testdata_file

from pipeline.data.draw import COLOURS
from pipeline.errors import DescryError
from pipeline.predict.formats.format import MARK
from pipeline.predict.options import Options
from pipeline.predict.results import PREDICTION
from pipeline.predict.run import predict_folder, survey
from pipeline.predict.select import Filters
from pipeline.work.workspace import open_workspace

HERE = Options(workers=0)  # decode in this process: fast, and enough for most questions


@pytest.fixture
def source(tmp_path):
    """DICOM with and without extension, images, and what is neither."""
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    write(folder / "a" / "IM0001", spot(), PixelSpacing=[0.5, 0.25])
    write(folder / "b.dcm", spot(100))
    stack = np.stack([spot(), spot(100), spot(at=(0, 0, 3, 4))])
    write(folder / "c", stack, 3, SOPInstanceUID=ROOT + "77")
    Image.fromarray(spot()).save(folder / "d.png")
    (folder / "notes.txt").write_text("nothing to see")
    (folder / "e.dcm").write_bytes(b"no DICOM at all")
    cut = write(folder / "f", spot())
    cut.write_bytes(cut.read_bytes()[:-100])
    return folder


def test_every_file_is_accounted_for(source, tmp_path):
    summary = predict_folder(source, tmp_path / "out", BrightSpots(), options=HERE)
    counts = summary.counts
    assert (counts["files"], counts["processed"], counts["skipped"], counts["failed"]) == (
        7,
        4,
        1,
        2,
    )
    assert (counts["frames"], counts["detections"]) == (6, 4)
    assert counts["detections_by_class"] == {"spot": 4, "other": 0}
    assert summary.exit_code == 1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["counts"] == counts
    assert [tuple(row.values()) for row in rows_of(tmp_path / "out" / "failures.csv")] == [
        ("e.dcm", "read", "not DICOM", "it has the name of a DICOM file"),
        ("f", "decode", "truncated", "Explicit VR Little Endian (1.2.840.10008.1.2.1): "
         "1900 of 2000 bytes"),
    ]  # fmt: skip
    assert [tuple(row.values()) for row in rows_of(tmp_path / "out" / "skipped.csv")] == [
        ("notes.txt", "find", "neither DICOM nor an image", "")
    ]
    assert not (tmp_path / "out.partial").exists()


def test_detections_table(source, tmp_path):
    predict_folder(source, tmp_path / "out", BrightSpots(), options=HERE)
    first, *rest = rows_of(tmp_path / "out" / "detections.csv")
    assert first == {
        "path": "a/IM0001",
        "study_instance_uid": ROOT + "2",
        "series_instance_uid": ROOT + "3",
        "sop_instance_uid": ROOT + "1",
        "frame": "1",
        "class": "spot",
        "score": "1.0",
        "x_px": "10.0",
        "y_px": "20.0",
        "width_px": "5.0",
        "height_px": "8.0",
        "width_mm": "1.25",  # 5 columns of 0.25 mm
        "height_mm": "4.0",  # 8 rows of 0.5 mm
        "spacing_from": "PixelSpacing",
        "overlay": f"overlays/000001-{ROOT}1.png",
        "mark": MARK,
    }
    assert [(row["path"], row["frame"], row["width_mm"]) for row in rest] == [
        ("c", "1", ""),
        ("c", "3", ""),
        ("d.png", "1", ""),
    ]


def test_coco_file_is_read_by_pycocotools(source, tmp_path, capsys):
    predict_folder(source, tmp_path / "out", BrightSpots(), options=HERE)
    coco = COCO(str(tmp_path / "out" / "detections.coco.json"))
    assert [image["id"] for image in coco.dataset["images"]] == [1, 2, 3, 4, 5, 6]
    assert [(image["file_name"], image["frame"]) for image in coco.loadImgs([3, 5, 6])] == [
        ("c", 1), ("c", 3), ("d.png", 1),
    ]  # fmt: skip
    (found,) = coco.loadAnns(coco.getAnnIds(imgIds=[5]))
    assert found == {
        "id": 3, "image_id": 5, "category_id": 1, "bbox": [0.0, 0.0, 3.0, 4.0], "area": 12.0,
        "iscrowd": 0, "score": 1.0,
    }  # fmt: skip


def test_overlays_are_drawn_where_something_is_found(source, tmp_path):
    predict_folder(source, tmp_path / "out", BrightSpots(), options=HERE)
    names = sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir())
    assert names == [
        f"000001-{ROOT}1.png",
        f"000003-{ROOT}77-frame0001.png",
        f"000003-{ROOT}77-frame0003.png",
        "000004-d.png.png",
    ]
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / names[-1]))
    assert drawn.shape[0] > 40  # the mark stands in a strip below the picture
    assert drawn[40:].max() == 255
    assert drawn[20, 10].tolist() == list(COLOURS[0])  # the corner of the box
    assert drawn[5, 40].tolist() == [30, 30, 30]


@pytest.mark.parametrize(("policy", "number"), [("all", 6), ("found", 4), ("none", 0)])
def test_overlay_policies(source, tmp_path, policy, number):
    options = Options(workers=0, overlays=policy)
    predict_folder(source, tmp_path / "out", BrightSpots(), options=options)
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == number
    named = [row["overlay"] for row in rows_of(tmp_path / "out" / "detections.csv")]
    assert all(bool(name) == (policy != "none") for name in named)


def test_two_runs_are_byte_identical_whatever_the_workers_and_the_file_order(source, tmp_path):
    predict_folder(source, tmp_path / "one", BrightSpots(), options=HERE)
    twin = tmp_path / "twin"
    paths = [path for path in source.rglob("*") if path.is_file()]
    random.Random(3).shuffle(paths)
    for path in paths:
        target = twin / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    predict_folder(twin, tmp_path / "two", BrightSpots(), options=Options(workers=2))
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(content(tmp_path / "one")) == 21


def test_dicom_its_png_and_its_monochrome1_twin_give_the_same_detections(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = spot(230)
    write(folder / "a", pixels)
    write(folder / "b", 255 - pixels, PhotometricInterpretation="MONOCHROME1")
    save(image_dataset(pixels), folder / "c", uid.JPEGLSLossless)
    save(image_dataset(pixels), folder / "d", uid.RLELossless)
    Image.fromarray(pixels).save(folder / "e.png")
    predict_folder(folder, tmp_path / "out", BrightSpots(), options=HERE)
    keys = ("class", "score", "x_px", "y_px", "width_px", "height_px")
    rows = rows_of(tmp_path / "out" / "detections.csv")
    found = [tuple(row[key] for key in keys) for row in rows]
    assert found == [("spot", "0.90196", "10.0", "20.0", "5.0", "8.0")] * 5


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PixelSpacing": [2, 1]}, ("5.0", "16.0", "PixelSpacing")),
        (
            {"ImagerPixelSpacing": [2, 1]},
            ("5.0", "16.0", "ImagerPixelSpacing (at the detector)"),
        ),
        ({"NominalScannedPixelSpacing": [2, 1]}, ("5.0", "16.0", "NominalScannedPixelSpacing")),
        (
            {"PixelSpacing": [1, 1], "ImagerPixelSpacing": [9, 9]},
            ("5.0", "8.0", "PixelSpacing"),
        ),
        ({"PixelSpacing": [0, 1]}, ("", "", "")),
        ({}, ("", "", "")),
    ],
)
def test_millimetres_name_their_source(tmp_path, elements, expected):
    path = write(tmp_path / "one", spot(), **elements)
    predict_folder(path, tmp_path / "out", BrightSpots(), options=HERE)
    (row,) = rows_of(tmp_path / "out" / "detections.csv")
    assert (row["width_mm"], row["height_mm"], row["spacing_from"]) == expected


def many(tmp_path, number=11):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(number):
        write(folder / f"{i:02d}", spot(at=(i, i, 4, 5)), SOPInstanceUID=ROOT + str(100 + i))
    (folder / "05").write_bytes(b"broken")
    return folder


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path):
    folder, options = many(tmp_path), Options(workers=0, batch_size=3)
    predict_folder(folder, tmp_path / "whole", BrightSpots(), options=options)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(folder, tmp_path / "out", Stops(), options=options)
    assert not (tmp_path / "out").exists()
    journal = tmp_path / "out.partial" / "state" / "journal"
    assert len(journal.read_text().splitlines()) == 6
    with journal.open("a") as stream:
        stream.write('{"path": "cut off by a ki')
    second, steps = BrightSpots(), []
    predict_folder(
        folder, tmp_path / "out", second, options=options,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert second.calls == [3, 3]  # of four batches, two were finished before
    assert steps[0] == (6, 11) and steps[-1] == (11, 11)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_stopped_run_of_another_model_is_not_continued(tmp_path):
    folder, options = many(tmp_path), Options(workers=0, batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(folder, tmp_path / "out", Stops(), options=options)
    other = BrightSpots(sha256="4567")
    predict_folder(folder, tmp_path / "out", other, options=options)
    assert len(other.calls) == 4


def test_every_call_of_the_model_sees_the_same_number_of_pictures(source, tmp_path):
    detector = BrightSpots()
    predict_folder(source, tmp_path / "out", detector, options=Options(workers=0, batch_size=4))
    assert set(detector.calls) == {4}


def test_threshold_and_clipping(tmp_path):
    class Fixed(BrightSpots):
        def look(self, image):
            boxes = np.array([[-5.0, 10, 20, 90], [1, 1, 2, 2], [60, 0, 70, 5]])
            return Found(boxes, np.array([0.9, 0.3, 0.8]), np.array([2, 1, 1]))

    path = write(tmp_path / "one", spot())
    predict_folder(path, tmp_path / "out", Fixed(), options=HERE)
    (row,) = rows_of(tmp_path / "out" / "detections.csv")  # the last box lies outside
    assert (row["class"], row["x_px"], row["width_px"]) == ("other", "0.0", "20.0")
    assert (row["y_px"], row["height_px"]) == ("10.0", "30.0")
    predict_folder(path, tmp_path / "out", Fixed(), options=Options(workers=0, score_threshold=0.1))
    assert len(rows_of(tmp_path / "out" / "detections.csv")) == 2
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["score_threshold"] == {
        "by_class": {"other": 0.1, "spot": 0.1}, "from": "--threshold", "sources": {},
    }  # fmt: skip


def test_what_is_printed_as_the_threshold_counts(tmp_path):
    class Close(BrightSpots):
        def look(self, image):
            return Found(np.array([[1.0, 1, 9, 9]]), np.array([0.299996]), np.array([1]))

    write(tmp_path / "one", spot())
    options = Options(workers=0, score_threshold=0.3)
    predict_folder(tmp_path / "one", tmp_path / "out", Close(), options=options)
    assert [row["score"] for row in rows_of(tmp_path / "out" / "detections.csv")] == ["0.3"]


def test_a_large_picture_is_reduced_before_it_travels_and_nothing_else_changes(tmp_path):
    class Measures(BrightSpots):
        """Notes the longest sides that it is shown."""

        def look(self, image):
            seen.append(max(image.shape[:2]))
            return super().look(image)

    pixels = np.full((300, 640), 30, np.uint8)
    pixels[100:150, 200:280] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "large.png")
    write(tmp_path / "in" / "small", spot())
    tables, seen = [], []
    for overlays in ("none", "all"):
        options = Options(workers=1, batch_size=1, overlays=overlays)
        predict_folder(tmp_path / "in", tmp_path / overlays, Measures(), options=options)
        tables.append((tmp_path / overlays / "detections.coco.json").read_bytes())
    assert sorted(seen) == [50, 50, 64, 64] and tables[0] == tables[1]
    large = rows_of(tmp_path / "all" / "detections.csv")[0]
    assert [large[name] for name in ("x_px", "y_px", "width_px", "height_px")] == [
        "200.0", "100.0", "80.0", "50.0",
    ]  # fmt: skip
    with Image.open(next((tmp_path / "all" / "overlays").glob("*large*"))) as drawn:
        assert drawn.size[0] == 640


def test_a_frame_that_fails_takes_its_file_along_but_no_other(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    stack = np.stack([spot()] * 3)
    path = save(image_dataset(stack, 3), folder / "a", uid.RLELossless)
    damaged = bytearray(path.read_bytes())
    # The third item's RLE header says that it has 99 segments.
    starts = [i for i in range(len(damaged)) if damaged[i : i + 4] == b"\xfe\xff\x00\xe0"]
    damaged[starts[-1] + 8] = 99
    path.write_bytes(damaged)
    write(folder / "b", spot())
    options = Options(workers=0, batch_size=2, overlays="all")
    summary = predict_folder(folder, tmp_path / "out", BrightSpots(), options=options)
    assert (summary.counts["failed"], summary.counts["frames"]) == (1, 1)
    assert [row["path"] for row in rows_of(tmp_path / "out" / "detections.csv")] == ["b"]
    assert [p.name[:6] for p in (tmp_path / "out" / "overlays").iterdir()] == ["000002"]


def test_a_picture_that_the_model_refuses_costs_only_its_file(tmp_path):
    class Picky(BrightSpots):
        def look(self, image):
            if image.shape == (7, 7):
                raise RuntimeError("too small, DOE^JOHN")
            return super().look(image)

    folder = many(tmp_path, 4)
    write(folder / "99", np.zeros((7, 7), np.uint8))
    (folder / "05").unlink()
    summary = predict_folder(folder, tmp_path / "out", Picky(), options=HERE)
    assert (summary.counts["processed"], summary.counts["failed"]) == (4, 1)
    (row,) = rows_of(tmp_path / "out" / "failures.csv")
    assert list(row.values()) == ["99", "detect", "the model failed", "frame 1: RuntimeError"]


def test_filters_and_warnings(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a", spot(), ViewPosition="PA", BodyPartExamined="CHEST")
    write(folder / "b", spot(), ViewPosition="LL", BodyPartExamined="CHEST")
    write(folder / "c", spot(), Modality="CT", SeriesDescription="Thorax axial")
    Image.fromarray(spot()).save(folder / "d.png")

    def read(**wanted):
        options = Options(workers=0, filters=Filters(**wanted))
        results = survey(folder, tmp_path / "out", BrightSpots(meta={"modality": ["DX"]}), options)
        return {r.path: r.ended.kind or [kind for kind, _ in r.opened.warnings] for r in results}

    unlike = ["modality differs from training"]
    assert read() == {"a": [], "b": [], "c": unlike, "d.png": []}
    by_view, image = "filtered out by --view", "ordinary image, while DICOM is filtered"
    assert read(view=("pa",)) == {"a": [], "b": by_view, "c": by_view, "d.png": image}
    other = "filtered out by --modality"
    assert read(modality=("CT", "MR")) == {"a": other, "b": other, "c": unlike, "d.png": image}
    other = "filtered out by --series-description"
    assert read(series_description="AXIAL")["a"] == other
    assert read(body_part=("chest",))["c"] == "filtered out by --body-part"
    assert not (tmp_path / "out").exists()


def test_non_image_objects_are_skipped(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm"):
        path = get_testdata_file(name, download=False)
        if path is None:
            pytest.skip(f"this pydicom does not bundle {name}")
        (folder / name).write_bytes(Path(path).read_bytes())
    summary = predict_folder(folder, tmp_path / "out", BrightSpots(), options=HERE)
    assert (summary.counts["skipped"], summary.exit_code) == (3, 0)
    assert [row["message"] for row in rows_of(tmp_path / "out" / "skipped.csv")] == [
        "RT Plan Storage", "Comprehensive SR Storage", "12-lead ECG Waveform Storage",
    ]  # fmt: skip


def test_images_are_known_by_content_or_by_name(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(spot()).save(folder / "a", "PNG")
    Image.fromarray(spot()).save(folder / "b.dcm", "TIFF")
    write(folder / "c.png", spot())
    (folder / "d.jpg").write_bytes(b"not a picture")
    predict_folder(folder, tmp_path / "out", BrightSpots(), options=HERE)
    found = rows_of(tmp_path / "out" / "detections.csv")
    assert [(row["path"], bool(row["sop_instance_uid"])) for row in found] == [
        ("a", False), ("b.dcm", False), ("c.png", True),
    ]  # fmt: skip
    (row,) = rows_of(tmp_path / "out" / "failures.csv")
    assert (row["path"], row["kind"]) == ("d.jpg", "corrupt image")


def test_pipes_and_broken_links_do_not_stop_the_run(tmp_path):
    folder = many(tmp_path, 2)
    os.mkfifo(folder / "pipe")
    (folder / "gone").symlink_to(folder / "nowhere")
    summary = predict_folder(folder, tmp_path / "out", BrightSpots(), options=HERE)
    assert summary.counts["reasons"] == {
        "skipped": {"not a regular file": 1, "neither DICOM nor an image": 1},
        "failed": {"cannot open": 1},
    }


def test_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    try:
        write(folder / os.fsdecode(b"r\xf6ntgen"), spot())
    except OSError:
        pytest.skip("this file system allows only UTF-8 names")
    predict_folder(folder, tmp_path / "out", BrightSpots(), options=Options(workers=1))
    (row,) = rows_of(tmp_path / "out" / "detections.csv")
    assert row["path"] == "r\\udcf6ntgen"


def test_output_inside_the_source_is_not_read_again(tmp_path):
    folder = many(tmp_path, 3)
    for _ in range(2):
        summary = predict_folder(folder, folder / "out", BrightSpots(), options=HERE)
        assert summary.counts["files"] == 4


def test_shards_share_the_files(tmp_path):
    folder = many(tmp_path)
    found = []
    for shard in range(3):
        options = Options(workers=0, shard=shard, num_shards=3)
        predict_folder(folder, tmp_path / "out", BrightSpots(), options=options)
        part = tmp_path / "out" / f"shard-000{shard}-of-0003"
        found += [row["path"] for row in rows_of(part / "detections.csv")]
    assert sorted(found) == [f"{i:02d}" for i in range(11) if i != 5]
    with pytest.raises(DescryError, match="0 <= shard < num-shards"):
        predict_folder(
            folder, tmp_path / "o", BrightSpots(), options=Options(shard=3, num_shards=3)
        )


def test_a_former_prediction_is_replaced_and_anything_else_refused(tmp_path):
    folder = many(tmp_path, 2)
    out = tmp_path / "out"
    predict_folder(folder, out, BrightSpots(), options=HERE)
    before = content(out)
    (folder / "00").unlink()
    predict_folder(folder, out, BrightSpots(), options=HERE)
    assert len(content(out)) == len(before) - 3  # an overlay, its thumbnail, its pixels
    (out / "run.json").unlink()
    with pytest.raises(DescryError, match="not a former prediction"):
        predict_folder(folder, out, BrightSpots(), options=HERE)


def test_two_runs_into_one_folder(tmp_path):
    folder = many(tmp_path, 2)
    with (
        open_workspace(tmp_path / "out", PREDICTION),
        pytest.raises(DescryError, match="another run is writing there"),
    ):
        predict_folder(folder, tmp_path / "out", BrightSpots(), options=HERE)


def test_bad_calls(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "holds no files"), (tmp_path / "x", "no such file")):
        with pytest.raises(DescryError, match=message):
            predict_folder(path, tmp_path / "out", BrightSpots())
    for wrong in ({"batch_size": 0}, {"score_threshold": 2.0}, {"overlays": "some"}):
        with pytest.raises(DescryError, match="allowed is"):
            Options(**wrong)
