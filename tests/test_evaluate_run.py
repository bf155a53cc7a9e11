"""What `descry evaluate` and `descry compare` write, and what they refuse."""

import csv
import errno
import json
import os
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.coco import load_coco, write_coco
from pipeline.data.intensity import Intensity
from pipeline.data.results import iterate_results, write_results
from pipeline.errors import DescryError
from pipeline.evaluate.compare import as_text, compare_runs, truth_of, write_comparison
from pipeline.evaluate.intervals import Resampling
from pipeline.evaluate.run import evaluate, evaluate_files
from pipeline.models.thresholds import OperatingPoint

ROOT = Path(__file__).parents[1]
HOW = Resampling(resamples=20)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A converted dataset: six images of two classes, the last two empty, three patients."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, 7):
        pixels = rng.integers(0, 60, (90, 120), dtype=np.uint8)
        if i < 5:
            x, y = map(int, rng.integers(2, 60, 2))
            pixels[y : y + 30, x : x + 30] += 150
            annotations.append({"image_id": i, "category_id": 1 + i % 2, "bbox": [x, y, 30, 30]})
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
        attributes = {"sex": "FM"[i % 2], "age": 20 * i}
        entry = {"file_name": f"{i}.png", "width": 120, "height": 90}
        images.append({**entry, "group": f"p{i % 3}", "attributes": attributes})
    write_coco(
        folder / "annotations/test.json",
        info={},
        licenses=[],
        categories=[("mass", ""), ("nodule", "")],
        images=images,
        annotations=annotations,
    )
    return folder


class Model:
    """Finds every object but the third, with a wrong class, a shift and a false alarm."""

    categories = ((1, "mass"), (2, "nodule"))
    intensity, trained_on, task = Intensity(), "toy", "detect"
    operating_point = OperatingPoint(0.4, "highest F1 on the validation split")

    def __init__(self, data: Path) -> None:
        self.truth = load_coco(data / "annotations/test.json")["annotations"]
        self.image = 0

    def detect(self, images):
        found = []
        for _ in images:
            self.image += 1
            boxes = [[5.0, 5, 25, 25]] if self.image in (1, 6) else []
            labels, scores = [1] * len(boxes), [0.5] * len(boxes)
            for a in self.truth:
                if a["image_id"] == self.image and self.image != 3:
                    x, y, w, h = a["bbox"]
                    x += 12 if self.image == 2 else 0
                    boxes.append([x, y, x + w, y + h])
                    labels.append(3 - a["category_id"] if self.image == 4 else a["category_id"])
                    scores.append(0.9 - 0.1 * self.image)
            arrays = (np.array(boxes).reshape(-1, 4), np.array(scores), np.array(labels, int))
            names = ("boxes", "scores", "labels", "masks")
            found.append(SimpleNamespace(**dict(zip(names, (*arrays, None), strict=True))))
        return found


def run(data: Path, out: Path) -> dict:
    settings = {"pictures": 2, "gallery": 5, "batch_size": 4, "workers": 0, "how": HOW}
    return evaluate(Model(data), data, out / "evaluate", out / "metrics", **settings)


@pytest.fixture(scope="module")
def evaluated(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    run(data, out)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_two_runs_give_the_same_bytes(data, evaluated, tmp_path):
    run(data, tmp_path)
    assert files(tmp_path) == files(evaluated)


def test_dvc_declares_every_file_and_every_declared_file_is_written(evaluated):
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["evaluate"]
    prefix = "runs/${item.dataset}/evaluate/"
    declared = {out.removeprefix(prefix) for out in stage["outs"]}
    assert {name.split("/")[0] for name in files(evaluated / "evaluate")} == declared


def test_a_stopped_run_leaves_the_output_as_it_was(data, tmp_path, monkeypatch):
    run(data, tmp_path)
    before = files(tmp_path / "evaluate")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.evaluate.run.draw_gallery", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path)
    assert files(tmp_path / "evaluate") == before
    assert (tmp_path / "evaluate.partial/details.json").is_file()
    (tmp_path / "evaluate.partial/old.png").write_bytes(b"of the stopped run")
    run(data, tmp_path)
    assert files(tmp_path / "evaluate") == before
    assert {p.name for p in tmp_path.iterdir()} == {"evaluate", "metrics"}


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left to write"), (errno.EROFS, "Read-only file system")],
)
def test_a_disk_that_cannot_be_written_is_named(data, tmp_path, monkeypatch, number, words):
    broken = Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr("pipeline.evaluate.evaluation.write_csv", broken)
    with pytest.raises(DescryError, match=rf"evaluate\.partial: {words}"):
        run(data, tmp_path)
    assert not (tmp_path / "evaluate").exists()


def test_a_folder_of_something_else_is_not_replaced(data, tmp_path):
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate/thesis.tex").write_text("years of work")
    with pytest.raises(DescryError, match="holds files that are not an evaluation"):
        run(data, tmp_path)


def test_details_say_everything_and_where_it_comes_from(evaluated):
    details = json.loads((evaluated / "evaluate/details.json").read_text())
    truth = details["ground_truth"]
    assert (truth["name"], truth["images"], truth["negatives"], truth["objects"]) == (
        "toy",
        6,
        2,
        4,
    )
    assert (truth["unit"], truth["units"]) == ("group", 3) and len(truth["sha256"]) == 64
    assert details["operating_point"] == {
        "threshold": 0.4,
        "source": "highest F1 on the validation split",
        "by_class": {},
        "sources": {},
    }
    # One hit (image 1), a shift (IoU 18/42), a wrong class, two false alarms; image 3 is missed.
    point = details["at_operating_point"]
    assert (point["true_positives"], point["false_positives"], point["missed"]) == (1, 4, 3)
    assert (point["sensitivity"], point["precision"]) == (0.25, 0.2)
    kinds = {k: v["count_at_operating_point"] for k, v in details["errors"].items()}
    assert kinds == {
        "localisation": 1,
        "class": 1,
        "both": 0,
        "duplicate": 0,
        "background": 2,
        "missed": 1,
    }
    assert details["image_level"]["sensitivity"] == 0.75
    assert details["image_level"]["specificity"] == 0.5
    assert details["intervals"]["figures"].keys() <= details["figures"].keys()
    metrics = json.loads((evaluated / "metrics/toy.json").read_text())
    assert metrics == {"toy": details["figures"]} and metrics["toy"]["objects"] == 4
    assert all(v is None or isinstance(v, int | float) for v in metrics["toy"].values())


def test_the_gallery_shows_mistakes_and_hits_worst_images_first(evaluated):
    folder = evaluated / "evaluate/gallery"
    index = rows(folder / "index.csv")
    assert [(r["kind"], r["error"], r["image_id"]) for r in index] == [
        ("false_positive", "localisation", "2"),  # two mistakes: a box off and a missed object
        ("false_positive", "class", "4"),
        ("false_positive", "background", "1"),
        ("false_positive", "background", "6"),
        ("missed", "missed", "2"),
        ("missed", "missed", "4"),
        ("missed", "missed", "3"),
        ("true_positive", "", "1"),
    ]
    assert index[0]["iou"] == "0.428571" and index[2]["iou"] == "" and index[4]["score"] == ""
    assert index[0]["rank"] == index[4]["rank"] == "1" and index[7]["iou"] == "1.0"
    assert {r["picture"] for r in index} | {"index.csv"} == {p.name for p in folder.iterdir()}
    with Image.open(folder / index[0]["picture"]) as picture:
        assert max(picture.size) == 288
        assert (np.asarray(picture) == (213, 94, 0)).all(axis=-1).any()  # the box of the detection


def test_subgroups_and_classes_are_tables(evaluated):
    groups = [(r["attribute"], r["value"]) for r in rows(evaluated / "evaluate/subgroups.csv")]
    assert groups[:3] == [("size", "small"), ("size", "medium"), ("size", "large")]
    assert ("age", "18-39") in groups and ("sex", "F") in groups
    by_class = rows(evaluated / "evaluate/per_class.csv")
    assert [(r["class"], r["objects"], r["sensitivity"]) for r in by_class] == [
        ("mass", "2", "0.0"),
        ("nodule", "2", "0.5"),
    ]


def test_anybodys_files_give_the_same_figures(data, evaluated, tmp_path):
    truth, predictions = data / "annotations/test.json", evaluated / "evaluate/predictions.json"
    settings = {"threshold": 0.4, "images": data / "images", "gallery": 5, "how": HOW}
    evaluate_files(truth, predictions, tmp_path, **settings)
    ours, theirs = files(evaluated / "evaluate"), files(tmp_path)
    same = {n for n in theirs if n.endswith((".csv", ".png"))}
    assert same == {n for n in ours if n.endswith((".csv", ".png")) and "pictures" not in n}
    assert all(ours[name] == theirs[name] for name in same)


def test_without_a_threshold_the_rest_is_there_and_the_reason_is_said(data, evaluated, tmp_path):
    truth, predictions = data / "annotations/test.json", evaluated / "evaluate/predictions.json"
    settings = {"threshold": None, "images": None, "gallery": 5, "how": HOW}
    figures = evaluate_files(truth, predictions, tmp_path, **settings)
    assert figures["AP"] is not None and figures["sensitivity"] is None
    details = json.loads((tmp_path / "details.json").read_text())
    assert "--threshold" in details["not_available"]["confusion.csv"]
    assert details["at_operating_point"]["missed"] is None
    assert rows(tmp_path / "confusion.csv") == [] and not (tmp_path / "gallery").exists()


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 30], "score": 0.5}
CORNERS = [{**GOOD, "bbox": [60, 50, 100, 80], "score": s / 10} for s in range(6)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{**GOOD, "image_id": 77}], r"p\.json: .*image_id 77: the ground truth has no such image"),
        ([{**GOOD, "image_id": "1.png"}], r"detection 0: image_id must be a whole number"),
        ([GOOD, {**GOOD, "category_id": 0}], r"category_id 0.*no such category.*It has 1, 2"),
        ([{**GOOD, "image_id": 2**64}], r"image_id must be a whole number below 2\*\*63, not 1844"),
        ([{**GOOD, "category_id": 10**400}], r"category_id must be a whole number below"),
        ([{**GOOD, "score": 10**400}], "score one"),
        ([{**GOOD, "bbox": [0, 0, 10**400, 1]}], "4 finite numbers"),
        ([{**GOOD, "id": [1]}], r"id must be a whole number, not \[1\]"),
        ([{k: v for k, v in GOOD.items() if k != "score"}], r"detection 0: has no 'score'"),
        ([{**GOOD, "score": 1.5}], r"score 1\.5 is not in 0 to 1.*sigmoid"),
        ([{**GOOD, "score": -3}], r"score -3 is not in 0 to 1"),
        ([{**GOOD, "bbox": [1, 2, -3, 4]}], r"detection 0: bbox .* negative size"),
        ([{**GOOD, "id": 5}, {**GOOD, "id": 5}], r"detection 1: id 5 occurs twice"),
        (CORNERS, r"6 of 6 boxes reach out.*\[x1, y1, x2, y2\]: write \[x, y, width, height\]"),
        ([{**GOOD, "bbox": [0.1, 0.2, 0.3, 0.4]}] * 5, "fractions of the image"),
        ({"images": [], "annotations": []}, "must be a list.*--gt"),
        (None, "no such results file"),
    ],
)
def test_wrong_results_are_refused_with_the_way_out(data, tmp_path, content, words):
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(json.dumps(content))
    settings = {"threshold": None, "images": None, "gallery": 0, "how": HOW}
    with pytest.raises(DescryError, match=words):
        evaluate_files(data / "annotations/test.json", path, tmp_path / "o", **settings)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a list"),
        ("[", "not JSON"),
        ("[ROW,]", "not JSON"),
        ("[ROW ROW]", f"expected , or ] at character {len(json.dumps(GOOD)) + 2}"),
        ("[] []", "text after the end"),
        ("[[1]]", "detection 0: must be an object"),
    ],
)
def test_what_is_not_a_json_list_is_refused(tmp_path, text, words):
    (tmp_path / "p.json").write_text(text.replace("ROW", json.dumps(GOOD)))
    with pytest.raises(DescryError, match=re.escape(words)):
        list(iterate_results(tmp_path / "p.json"))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=5), st.sampled_from([None, 1, "\t"]))
def test_a_list_is_read_one_by_one_as_json_reads_it(scores, indent):
    rows = [{**GOOD, "score": score, "note": {"a, ]": ["[", "}"]}} for score in scores]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.json"
        path.write_text("\ufeff \n" + json.dumps(rows, indent=indent) + "\r\n", encoding="utf-8")
        assert list(iterate_results(path)) == rows


def test_a_wrong_threshold_and_missing_images_are_refused(data, tmp_path):
    path = tmp_path / "p.json"
    write_results(path, [GOOD])
    truth = data / "annotations/test.json"
    with pytest.raises(DescryError, match=r"--threshold 40.*0 to 1"):
        evaluate_files(truth, path, tmp_path, threshold=40, images=None, gallery=1, how=HOW)
    with pytest.raises(DescryError, match=r"6 of 6 images missing.*--images"):
        evaluate_files(truth, path, tmp_path, threshold=0.4, images=tmp_path, gallery=1, how=HOW)


def test_a_ground_truth_without_anything_is_no_crash(tmp_path):
    write_coco(tmp_path / "t.json", info={}, licenses=[], categories=[], images=[], annotations=[])
    (tmp_path / "p.json").write_text(" [ ] ")
    out = tmp_path / "o"
    settings = {"threshold": 0.5, "images": tmp_path, "gallery": 2, "how": HOW}
    figures = evaluate_files(tmp_path / "t.json", tmp_path / "p.json", out, **settings)
    assert figures["AP"] is None and figures["images"] == figures["objects"] == 0
    reasons = json.loads((out / "details.json").read_text())["not_available"]
    assert reasons["froc.csv"] == "0 objects" and reasons["roc.csv"] == "0 positive images"


def test_the_command_takes_a_name_or_two_files(data, evaluated, tmp_path):
    truth, predictions = data / "annotations/test.json", evaluated / "evaluate/predictions.json"
    files = ["--gt", str(truth), "--predictions", str(predictions)]
    called = ["evaluate", *files, "-o", str(tmp_path), "-S", "evaluate.resamples=3"]
    done = CliRunner().invoke(app, called)
    assert done.exit_code == 0 and done.output.startswith("AP 0."), done.output
    assert "image_auc 0.75" in done.output
    compared = ["compare", str(predictions), str(predictions), "--gt", str(truth)]
    done = CliRunner().invoke(app, [*compared, "-o", str(tmp_path), "-S", "evaluate.resamples=3"])
    assert done.exit_code == 0 and (tmp_path / "comparison.json").is_file(), done.output
    for wrong in ([], files[:2], ["nih", *files], [*files, "--coco", "x"], ["nih", *files[:2]]):
        with pytest.raises(DescryError, match="either NAME"):
            CliRunner().invoke(app, ["evaluate", *wrong], catch_exceptions=False)


def test_two_runs_are_compared(data, evaluated, tmp_path):
    truth, first = data / "annotations/test.json", evaluated / "evaluate"
    perfect = [{**a, "score": 0.9} for a in load_coco(truth)["annotations"]]
    keys = ("image_id", "category_id", "bbox", "score")
    write_results(tmp_path / "b.json", [{k: row[k] for k in keys} for row in perfect])
    result = compare_runs(truth, first, tmp_path / "b.json", HOW)
    assert result["figures"]["AP"]["b"] == 1.0 and result["figures"]["AP"]["difference"] > 0
    assert result["figures"]["sensitivity"]["p"] is None  # b has no operating point
    assert (result["unit"], result["units"], result["thresholds"]) == ("group", 3, [0.4, None])
    write_comparison(result, ("first", "b"), tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["a"] == "first"
    assert rows(tmp_path / "comparison.csv")[0]["figure"] == "AP"
    assert "20 resamples and swaps of 3 groups" in as_text(result)


def test_runs_on_different_test_sets_are_not_compared(data, evaluated, tmp_path):
    truth = load_coco(data / "annotations/test.json")
    (tmp_path / "other.json").write_text(json.dumps(truth | {"info": {"changed": 1}}))
    first = evaluated / "evaluate"
    with pytest.raises(DescryError, match=r"another ground truth than .*other\.json"):
        compare_runs(tmp_path / "other.json", first, first, HOW)
    with pytest.raises(DescryError, match="--gt"):
        truth_of(first, tmp_path)
    with pytest.raises(DescryError, match=r"details\.json.*not readable"):
        compare_runs(data / "annotations/test.json", data, first, HOW)
