"""Whole conversions of a small made-up dataset."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from toy_source import Toy, opened

from pipeline.config import validate
from pipeline.convert import convert, datasets, open_source
from pipeline.convert.engine.report import summary_line
from pipeline.convert.registry import AugmentName, built_in
from pipeline.data.augment import RECIPES
from pipeline.data.coco import load_coco
from pipeline.errors import DescryError

OPTIONS = {"seed": 0, "val_fraction": 0.2, "test_fraction": 0.3, "progress": False}
SPLITS = ("train", "val", "test")


def _picture(path, seed, mode="L", **options):
    """Save noise of 40 x 30 pixels."""
    shape = (30, 40) if mode == "L" else (30, 40, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def _labels(raw, rows):
    (raw / "labels.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


def _tree(folder):
    """Content of all files of a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def _dropped(out):
    with (out / "dropped.csv").open(newline="") as stream:
        return list(csv.reader(stream))


def _simple(raw, images=12, group="g{}"):
    """A dataset without faults: every third image is a negative."""
    rows = []
    for i in range(images):
        _picture(raw / "pictures" / f"i{i:02}.png", i)
        head = [f"i{i:02}.png", group.format(i), ""]
        rows.append(head if i % 3 == 2 else [*head, "cell", 1, 2, 10 + i, 12])
    _labels(raw, rows)
    return raw


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A dataset with every fault, and its conversion with an official split."""
    raw = tmp_path_factory.mktemp("messy") / "raw"
    pictures = raw / "pictures"
    for i, name in enumerate(
        ["a", "b", "c", "copy", "t", "v", "segfault", "exit", "bug", "alone", "lost"]
    ):
        _picture(pictures / f"{name}.png", i)
    (pictures / "copy.png").write_bytes((pictures / "t.png").read_bytes())
    _picture(pictures / "sub" / "turned.jpg", 50, "RGB", exif=_exif(6))
    _picture(pictures / "photo.jpg", 51, "RGB")
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:200])
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(pictures / "deep.tif")
    (raw / "notes.txt").write_text("not read")
    (raw / ".DS_Store").touch()
    _labels(
        raw,
        [
            ["a.png", "p1", "train", "cell", 5, 5, 10, 10],  # 1
            ["a.png", "p1", "train", "nucleus", -4, 5, 10, 10],  # 2 clipped
            ["a.png", "p1", "train", "cell", 5, 5, 0, 10],  # 3 no size
            ["b.png", "p1", "train", "cell", 100, 5, 10, 10],  # 4 outside
            ["b.png", "p1", "train", "cell", "nan", 5, 10, 10],  # 5
            ["c.png", "p2", "train"],  # 6 negative
            ["copy.png", "p3", "train", "cell", 1, 1, 5, 5],  # 7 same pixels as t
            ["t.png", "p4", "test", "cell", 1, 1, 5, 5],  # 8
            ["v.png", "p1", "val", "nucleus", 39.5, 1, 5, 5],  # 9 too small; p1 leaks
            ["segfault.png", "p5", "train", "cell", 1, 1, 5, 5],  # 10
            ["exit.png", "p5", "train", "cell", 1, 1, 5, 5],  # 11
            ["bug.png", "p5", "train", "cell", 1, 1, 5, 5],  # 12
            ["broken.png", "p5", "train", "cell", 1, 1, 5, 5],  # 13
            ["absent.png", "p5", "train", "cell", 1, 1, 5, 5],  # 14
            ["sub/turned.jpg", "p6", "train", "cell", 1, 1, 5, 5],  # 15
            ["photo.jpg", "p6", "train", "cell", 1, 1, 5, 5],  # 16
            ["deep.tif", "p7", "test", "nucleus", 1, 1, 5, 5],  # 17
            ["malformed"],  # 18
            ["b.png", "p1", "train", "cell", 1, 1, 5, 5],  # 19
            ["v.png", "p1", "val", "cell", 1, 1, 5, 5],  # 20
            ["lost.png", "p8", "train", "cell", 3, 3, 0, 0],  # 21 has an object, but no usable box
        ],
    )
    out = raw.parent / "out"
    report = convert(Toy(raw), out, **OPTIONS, workers=2)
    return raw, out, report


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_report_accounts_for_every_file_row_box_and_image(messy):
    _, out, report = messy
    assert report == json.loads((out / "report.json").read_text())
    assert report["files"] == {
        "found": 18,
        "used as images": 8,
        "used as annotations": 1,
        "dropped": 6,  # segfault, exit, bug, broken, copy, lost
        "unused": {
            "hidden or system file": 1,
            "image that no annotation names": 1,
            "not an input of this converter": 1,
        },
    }
    assert report["rows"] == {
        "read": 21,
        "read by file": {"labels.csv": 21},
        "used for boxes": 19,
        "used without a box": 1,
        "dropped": {"malformed row": 1},
    }
    assert report["boxes"] == {
        "in": 19,
        "out": 8,
        "clipped": 1,
        "dropped": {
            "coordinates not finite": 1,
            "image dropped": 6,
            "outside the image": 1,
            "under 1 pixel on a side inside the image": 1,
            "zero or negative size": 2,
        },
    }
    assert report["images"] == {
        "in": 15,
        "out": 8,
        "dropped": {
            "corrupt image": 1,
            "decoder crashed": 2,
            "decoder failed": 1,
            "duplicate of an image in another split": 1,
            "image missing": 1,
            "no usable box, and not a negative": 1,
        },
    }


def test_report_describes_splits_leaks_and_copies(messy):
    _, _, report = messy
    assert report["splits"] == {
        "train": {"images": 5, "negatives": 1, "boxes": 5, "classes": {"cell": 4, "nucleus": 1}},
        "val": {"images": 1, "negatives": 0, "boxes": 1, "classes": {"cell": 1, "nucleus": 0}},
        "test": {"images": 2, "negatives": 0, "boxes": 2, "classes": {"cell": 1, "nucleus": 1}},
    }
    assert report["split"] == "Official splits train, val, test."
    assert report["leakage"] == {"groups in more than one split": 1}
    assert report["duplicates"] == {"dropped across splits": 1, "kept within a split": 0}
    assert report["remarks on images"] == {"EXIF orientation applied": 1}
    assert report["size mismatches"] == {"images": 0, "examples": []}
    assert report["parameters"] == {
        "pause": 0.0,
        "split seed": 0,
        "val_fraction": 0.2,
        "test_fraction": 0.3,
        "png_level": 1,
    }
    assert summary_line(report) == (
        "toy: 15 images in, 8 out (train 5, val 1, test 2; 1 without boxes), 19 boxes in, 8 out "
        "(1 clipped); dropped 7 images, 11 boxes, 1 rows; 1 image files not used, since no "
        "annotation names them"
    )


def test_every_drop_is_listed_with_place_and_reason(messy):
    _, out, _ = messy
    header, *rows = _dropped(out)
    assert header == ["kind", "where", "reason", "detail"]
    assert rows == sorted(rows)
    short = {(kind, where, reason) for kind, where, reason, _ in rows}
    assert short == {
        ("box", "labels.csv:3", "zero or negative size"),
        ("box", "labels.csv:4", "outside the image"),
        ("box", "labels.csv:5", "coordinates not finite"),
        ("box", "labels.csv:7", "image dropped"),
        ("box", "labels.csv:9", "under 1 pixel on a side inside the image"),
        *(("box", f"labels.csv:{line}", "image dropped") for line in range(10, 15)),
        ("file", ".DS_Store", "hidden or system file"),
        ("file", "notes.txt", "not an input of this converter"),
        ("file", "pictures/alone.png", "image that no annotation names"),
        ("image", "pictures/absent.png", "image missing"),
        ("image", "pictures/broken.png", "corrupt image"),
        ("image", "pictures/bug.png", "decoder failed"),
        ("image", "pictures/copy.png", "duplicate of an image in another split"),
        ("image", "pictures/exit.png", "decoder crashed"),
        ("image", "pictures/segfault.png", "decoder crashed"),
        ("box", "labels.csv:21", "zero or negative size"),
        ("image", "pictures/lost.png", "no usable box, and not a negative"),
        ("row", "labels.csv:18", "malformed row"),
    }
    detail = {where: detail for kind, where, _, detail in rows if kind == "image"}
    assert detail["pictures/copy.png"] == "same pixels as t.png"
    assert detail["pictures/segfault.png"] == "SIGSEGV"
    assert detail["pictures/bug.png"] == "KeyError: 'a decoder may raise anything'"


def test_images_are_copied_or_encoded(messy):
    raw, out, _ = messy
    names = sorted(p.relative_to(out / "images").as_posix() for p in (out / "images").rglob("*.*"))
    assert names == [
        "a.png", "b.png", "c.png", "deep.png", "photo.jpg", "sub/turned.png", "t.png", "v.png",
    ]  # fmt: skip
    for name in ("a.png", "photo.jpg"):
        assert (out / "images" / name).read_bytes() == (raw / "pictures" / name).read_bytes()
    with Image.open(out / "images" / "sub" / "turned.png") as turned:
        assert turned.size == (30, 40)
    with Image.open(out / "images" / "deep.png") as deep:
        assert np.asarray(deep).tolist() == np.arange(1200).reshape(30, 40).tolist()


def test_coco_files_hold_what_is_left(messy):
    _, out, _ = messy
    coco = {split: load_coco(out / "annotations" / f"{split}.json") for split in SPLITS}
    assert [i["file_name"] for i in coco["train"]["images"]] == [
        "a.png", "b.png", "c.png", "sub/turned.png", "photo.jpg",
    ]  # fmt: skip
    assert [a["bbox"] for a in coco["val"]["annotations"]] == [[1.0, 1.0, 5.0, 5.0]]
    assert coco["test"]["images"][1] == {
        "id": 2,
        "file_name": "deep.png",
        "width": 40,
        "height": 30,
        "source": "pictures/deep.tif",
        "group": "p7",
        "attributes": {"depth": "uint16"},
    }
    boxes = [(a["image_id"], a["category_id"], a["bbox"]) for a in coco["train"]["annotations"]]
    assert boxes == [
        (1, 1, [5.0, 5.0, 10.0, 10.0]),
        (1, 2, [0.0, 5.0, 6.0, 10.0]),
        (2, 1, [1.0, 1.0, 5.0, 5.0]),
        (4, 1, [1.0, 1.0, 5.0, 5.0]),
        (5, 1, [1.0, 1.0, 5.0, 5.0]),
    ]


def test_no_folder_of_the_user_shows(messy):
    raw, out, _ = messy
    for name, content in _tree(out).items():
        assert str(raw.parent).encode() not in content, name


def test_nothing_is_left_beside_the_output(messy):
    raw, out, _ = messy
    assert sorted(p.name for p in raw.parent.iterdir()) == ["out", "raw"]
    assert sorted(p.name for p in out.iterdir()) == [
        "annotations", "dropped.csv", "images", "near_duplicates.csv", "report.json",
    ]  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
def test_pycocotools_gives_perfect_detections_ap_one(messy, split):
    _, out, _ = messy
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(out / "annotations" / f"{split}.json"))
        perfect = [{**a, "score": 1.0} for a in truth.dataset["annotations"]]
        if not perfect:
            assert split == "val"
            return
        evaluation = COCOeval(truth, truth.loadRes(perfect), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools adds an epsilon to each denominator: 1 - 2e-16
    assert evaluation.stats[0] == pytest.approx(1.0, abs=1e-12)


def test_same_bytes_with_any_number_of_workers(messy, tmp_path):
    raw, out, _ = messy
    convert(Toy(raw), tmp_path / "again", **OPTIONS, workers=1)
    assert _tree(tmp_path / "again") == _tree(out)


def test_no_worker_imports_torch_and_the_drawn_split_keeps_groups_whole(tmp_path):
    raw = _simple(tmp_path / "raw", 24, "g{}")
    report = convert(Toy(raw), tmp_path / "out", **OPTIONS, workers=1)
    assert report["remarks on images"] == {}
    assert [report["splits"][split]["images"] for split in SPLITS] == [12, 5, 7]
    # 16 groups with a box: 4.8 -> 5 test, 3.2 -> 3 val; 8 without: 2.4 -> 2 and 1.6 -> 2.
    assert [report["splits"][split]["negatives"] for split in SPLITS] == [4, 2, 2]
    assert report["leakage"] == {"groups in more than one split": 0}


def test_a_picture_that_is_a_pipe_or_a_loop_of_links_costs_itself_alone(tmp_path):
    raw = _simple(tmp_path / "raw")
    for name in ("i01.png", "i04.png"):
        (raw / "pictures" / name).unlink()
    os.mkfifo(raw / "pictures" / "i01.png")
    (raw / "pictures" / "i04.png").symlink_to("i04.png")
    report = convert(Toy(raw), tmp_path / "out", **OPTIONS, workers=1)
    assert report["images"]["out"] == 10
    assert report["images"]["dropped"] == {"decoder failed": 1, "image cannot be opened": 1}


RUN = """
import sys
from pathlib import Path
from toy_source import Toy
from pipeline.convert import convert
if __name__ == "__main__":
    convert(Toy(Path(sys.argv[1]), 0.03), Path(sys.argv[2]), seed=0, val_fraction=0.2,
            test_fraction=0.3, workers=2, png_level=1, progress=False)
"""


def _start(raw, out, **options):
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", RUN, str(raw), str(out)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def _wait_for_lines(journal, wanted, process):
    while not journal.is_file() or journal.read_bytes().count(b"\n") < wanted:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def _children(number):
    """Process numbers of the children of a process; Linux only."""
    return Path(f"/proc/{number}/task/{number}/children").read_text().split()


def _runs(number):
    """Whether a process runs; one that is only waited for by its parent (Z) does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_for_end(numbers):
    for _ in range(2000):
        if not any(map(_runs, numbers)):
            return
        time.sleep(0.01)
    pytest.fail("workers outlive their parent")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs the list of children")
def test_killed_and_started_again_gives_the_same_bytes(tmp_path, caplog):
    raw = _simple(tmp_path / "raw", 30)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    process = _start(raw, out)
    _wait_for_lines(partial / "state" / "journal", 6, process)
    workers = _children(process.pid)
    process.kill()
    process.communicate()
    assert workers
    _wait_for_end(workers)
    assert not out.exists()
    finished = (partial / "state" / "journal").read_bytes().count(b"\n")
    assert 6 <= finished < 30
    lost = next((partial / "images").glob("*.png"))
    lost.write_bytes(b"half")  # an image whose bytes did not reach the disk
    (partial / "images" / ".i99.png.1.tmp").write_bytes(b"of a killed worker")
    with caplog.at_level("INFO"):
        convert(Toy(raw, 0.03), out, **OPTIONS)
    assert f"going on after {finished} images" in caplog.text
    convert(Toy(raw, 0.03), tmp_path / "at once", **OPTIONS)
    assert _tree(out) == _tree(tmp_path / "at once")
    assert not partial.exists()


def test_after_a_failure_the_input_may_have_changed(tmp_path):
    raw = _simple(tmp_path / "raw", 3)
    good = ["i00.png", "", "", "cell", 1, 1, 9, 9]
    _labels(raw, [good, ["i02.png", "", "", "mitosis", 1, 1, 9, 9]])
    with pytest.raises(DescryError, match="class 'mitosis' is none of cell, nucleus"):
        convert(Toy(raw), tmp_path / "out", **OPTIONS, workers=1)
    _picture(raw / "pictures" / "i00.png", 77)
    _labels(raw, [good])
    convert(Toy(raw), tmp_path / "out", **OPTIONS, workers=1)
    assert (tmp_path / "out" / "images" / "i00.png").read_bytes() == (
        raw / "pictures" / "i00.png"
    ).read_bytes()
    assert [p.name for p in (tmp_path / "out" / "images").iterdir()] == ["i00.png"]


def test_a_full_disk_is_named_and_the_finished_part_kept(tmp_path):
    import resource

    raw = _simple(tmp_path / "raw", 8)
    _picture(raw / "pictures" / "i06.png", 1, "RGB")  # 3.6 kB, the others have 1.2
    limit = 3000

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = _start(raw, tmp_path / "out", preexec_fn=limited)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "DescryError" in stderr
    assert "no space left to write (File too large)" in stderr
    assert "goes on where it stopped" in stderr
    assert (tmp_path / "out.partial" / "state" / "journal").is_file()
    assert not (tmp_path / "out").exists()


def test_nothing_convertible_is_an_error_that_says_why(tmp_path):
    raw = tmp_path / "raw"
    (raw / "pictures").mkdir(parents=True)
    (raw / "pictures" / "a.png").write_bytes(b"no image")
    _labels(raw, [["a.png", "", "", "cell", 1, 1, 5, 5]])
    with pytest.raises(
        DescryError, match=r"corrupt image \(1 times, such as pictures/a.png: not an"
    ):
        convert(Toy(raw), tmp_path / "out", **OPTIONS)
    _labels(raw, [])
    with pytest.raises(DescryError, match="no image was found"):
        convert(Toy(raw), tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.png", "a.jpg"), "pictures/a.png and pictures/a.jpg would both become the image 'a'"),
        (("../a.png",), "'../a' cannot name an output image"),
        (("/a.png",), "'/a' cannot name an output image"),
        (("a\\b.png",), "cannot name an output image"),
    ],
)
def test_names_that_cannot_be_written_are_refused(tmp_path, names, message):
    (tmp_path / "raw").mkdir()
    _labels(tmp_path / "raw", [[name, "", "", "cell", 1, 1, 5, 5] for name in names])
    with pytest.raises(DescryError) as caught:
        convert(Toy(tmp_path / "raw"), tmp_path / "out", **OPTIONS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers is -1"),
        ({"png_level": 10}, "png_level is 10; it must be 0 to 9"),
        ({"val_fraction": 0.8}, "leave nothing to train"),
    ],
)
def test_options_out_of_range_are_named(tmp_path, options, message):
    with pytest.raises(DescryError, match=message):
        convert(Toy(tmp_path), tmp_path / "out", **{**OPTIONS, **options})


def test_a_row_that_a_source_loses_is_a_bug_and_not_silent(tmp_path, monkeypatch):
    raw = _simple(tmp_path / "raw", 3)
    monkeypatch.setattr("pipeline.convert.records.Ledger.use", lambda *_: None)
    with pytest.raises(RuntimeError, match="bug: 3 annotation rows in, 2 out"):
        convert(Toy(raw), tmp_path / "out", **OPTIONS)


def test_an_image_of_another_size_than_declared_is_reported(tmp_path):
    raw = _simple(tmp_path / "raw", 3)
    Image.new("L", (20, 30), 9).save(raw / "pictures" / "i00.png")
    report = convert(Toy(raw), tmp_path / "out", **OPTIONS)
    assert report["size mismatches"] == {
        "images": 1,
        "examples": ["pictures/i00.png: 20 x 30, declared 40 x 30"],
    }


# --- the registry ---


def test_a_dataset_says_its_name_and_a_recipe_that_exists(tmp_path):
    assert list(built_in()) == ["brain_tumor", "ccellbio", "cod10k", "nih", "rsna"]
    for name, dataset in built_in().items():
        assert dataset.open(tmp_path).name == dataset.name == name
    assert set(get_args(AugmentName)) == set(RECIPES)


def test_a_module_in_the_folder_of_datasets_is_a_dataset(tmp_path, monkeypatch):
    (tmp_path / "moths.py").write_text(
        "from pipeline.convert.registry import annotated\n"
        "DATASET = annotated('moths', augment='natural', epochs=7)\n"
    )
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    built_in.cache_clear()
    try:
        params = validate({})
    finally:
        built_in.cache_clear()
    assert params.known == ("brain_tumor", "ccellbio", "cod10k", "moths", "nih", "rsna")
    assert params.augment["moths"] == "natural" and params.scale.epochs["moths"] == 7
    assert params.convert.moths.layout == "auto"


def test_importing_the_package_is_light():
    code = (
        "import sys, pipeline.convert; print(sorted({'numpy', 'torch', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("nih", None, "the raw folder of nih does not exist. Get BBox_List_2017.csv"),
        ("nih", [], "the raw folder of nih is empty. Get BBox_List_2017.csv"),
        ("nih", [".gitkeep"], "the raw folder of nih is empty."),
        (
            "rsna",
            ["BBox_List_2017.csv"],
            "this looks like nih, not like rsna: use `descry convert nih`",
        ),
        ("rsna", ["holiday.mp4"], "holds none of stage_2_train_labels.csv, stage_2_train_images"),
        ("covid", [], "the raw folder of covid is empty. Put images and annotations there as one"),
        ("covid", ["holiday.mp4"], "so it is not covid. Put images and annotations there as one"),
        ("covid", ["BBox_List_2017.csv"], "this looks like nih, not like covid"),
    ],
)
def test_a_wrong_raw_folder_is_named_with_the_way_out(tmp_path, name, files, message):
    raw = tmp_path / "raw"
    if files is not None:
        raw.mkdir()
        for file in files:
            (raw / file).touch()
    with pytest.raises(DescryError) as caught:
        open_source(name, raw)
    assert message in str(caught.value)


def test_a_file_as_raw_folder_is_named_and_the_seed_reaches_who_draws(tmp_path):
    (tmp_path / "BBox_List_2017.csv").touch()
    with pytest.raises(DescryError, match="is a file, not a folder"):
        open_source("nih", tmp_path / "BBox_List_2017.csv")
    assert opened("nih", tmp_path, seed=1).seed == 1
