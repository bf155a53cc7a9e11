"""Operating points by class: how they are chosen, and that everything behind follows them."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from evaluate_factory import NOWHERE as ELSEWHERE
from evaluate_factory import A, B, coco_of, found
from PIL import Image
from predict_factory import rows_of
from run_factory import make_run
from train_factory import SETTINGS, SPEC, run

from pipeline.data.coco import write_coco
from pipeline.data.index import CocoIndex
from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.compare import compare_runs
from pipeline.evaluate.evaluation import Evaluation, details, tables
from pipeline.evaluate.intervals import Resampling
from pipeline.evaluate.operating_point import validate
from pipeline.evaluate.pictures import draw_pictures
from pipeline.evaluate.run import evaluate
from pipeline.models.ensemble import Ensemble
from pipeline.models.inference import detect_split
from pipeline.models.saved import SavedModel
from pipeline.models.thresholds import LEAST_OBJECTS, OperatingPoint, doubts
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder
from pipeline.report.run import Run
from pipeline.report.write import write_page

HOW = Resampling(resamples=5)


def split(path, objects, names=("a", "b"), crowds=0):
    """A COCO file of one object an image: `objects` says how many of each class."""
    labels = [k for k, count in enumerate(objects, start=1) for _ in range(count)]
    write_coco(
        path,
        info={},
        licenses=[],
        categories=[(name, "") for name in names],
        images=[{"file_name": f"{i}.png", "width": 200, "height": 160} for i in range(200)],
        annotations=[
            {"image_id": i, "category_id": k, "bbox": A if k == 1 else B, "iscrowd": i <= crowds}
            for i, k in enumerate(labels, start=1)
        ],
    )
    return path


def hits(first, count, label, score):
    """Detections on the objects of `count` images."""
    box = A if label == 1 else B
    return [found(i, label, box, score) for i in range(first, first + count)]


def misses(count, label, score):
    return [found(i, label, ELSEWHERE, score) for i in range(1, count + 1)]


def test_each_class_has_the_highest_f1_of_its_own(tmp_path):
    # a: .8 gives 2*16/(16+20) = .889, .6 gives 32/(36+20), .4 gives 40/(40+20).
    rows = hits(1, 16, 1, 0.8) + misses(20, 1, 0.6) + hits(17, 4, 1, 0.4)
    # b: .3 gives 40/(20+20) = 1, .2 gives 40/(21+20).
    rows += hits(21, 20, 2, 0.3) + misses(1, 2, 0.2)
    # Together: .571, .421, .5, then 80/(60+40) = .8 at .3, 80/(61+40).
    _, point = validate(split(tmp_path / "val.json", (20, 20)), rows)
    words = "highest F1 at IoU 0.5 on the validation split"
    assert (point.threshold, point.source) == (0.3, f"{words} (0.800, 40 objects)")
    assert point.by_class == {"a": 0.8, "b": 0.3}
    known = {"a": ("0.889", 0.8), "b": ("1.000", 1.0)}
    for name, (f1, sensitivity) in known.items():
        assert point.sources[name] == {
            "objects": 20, "source": f"{words} ({f1}, 20 objects)",
            "sensitivity": sensitivity, "fp_per_image": 0.0,
        }  # fmt: skip
    assert OperatingPoint.read(json.loads(json.dumps(point.recorded())), 0.3) == point
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert validate(tmp_path / "val.json", shuffled)[1] == point


@pytest.mark.parametrize(
    ("objects", "crowds", "detections", "threshold", "why"),
    [
        (LEAST_OBJECTS, 0, hits(1, 15, 1, 0.9), 0.9, "(0.857, 20 objects)"),
        (LEAST_OBJECTS - 1, 0, hits(1, 15, 1, 0.9), 0.3, "has 19 of the 20 objects of this class"),
        (LEAST_OBJECTS, 1, hits(2, 15, 1, 0.9), 0.3, "has 19 of the 20 objects"),  # a crowd is none
        (0, 0, misses(5, 1, 0.9), 0.3, "has 0 of the 20 objects"),
        (LEAST_OBJECTS, 0, misses(5, 1, 0.9), 0.3, "20 objects of this class, and none was found"),
        (LEAST_OBJECTS, 0, [], 0.3, "none was found"),
    ],
)
def test_without_evidence_a_class_keeps_the_threshold_of_all(
    tmp_path, objects, crowds, detections, threshold, why
):
    path = split(tmp_path / "val.json", (objects, 100), crowds=crowds)
    _, point = validate(path, detections + hits(objects + 1, 100, 2, 0.3))
    assert point.threshold == 0.3 and point.by_class == {"a": threshold, "b": 0.3}
    assert why in point.sources["a"]["source"]
    assert point.sources["a"]["objects"] == objects - crowds


def test_of_equal_f1_the_highest_threshold_is_taken(tmp_path):
    # a: .9 gives 2*10/(10+20) = 2/3, .5 gives 2*20/(40+20) = 2/3. b alike.
    rows = hits(1, 10, 1, 0.9) + hits(11, 10, 1, 0.5) + misses(20, 1, 0.5)
    rows += hits(21, 10, 2, 0.8) + hits(31, 10, 2, 0.4) + misses(20, 2, 0.4)
    _, point = validate(split(tmp_path / "val.json", (20, 20)), rows)
    assert point.by_class == {"a": 0.9, "b": 0.8}
    # Together: 20/50, 40/60 at .8, 60/100 at .5, 80/120 at .4.
    assert point.threshold == 0.8


@pytest.mark.parametrize("objects", [3, 40])
def test_one_class_alone_has_the_threshold_of_all(tmp_path, objects):
    path = split(tmp_path / "val.json", (objects,), names=("a",))
    rows = hits(1, objects, 1, 0.7) + misses(3, 1, 0.6)
    for results in (rows, misses(3, 1, 0.6), []):
        _, point = validate(path, results)
        assert point.by_class == {"a": point.threshold}
        known = point.sources["a"]
        assert (known["objects"], known["source"]) == (objects, point.source)
        # above 0.3, the default: three wrong boxes in 200 images where nothing else was found
        wrong = 0.015 if results == misses(3, 1, 0.6) else 0.0
        assert (known["sensitivity"], known["fp_per_image"]) == (float(results is rows), wrong)
    assert validate(path, rows)[1].threshold == 0.7


def test_the_evaluation_takes_the_lowest_score_of_each_class(tmp_path):
    coco = coco_of([[(1, *A), (2, *B)], [(1, *A)], [(2, *B)], []])
    rows = [
        found(1, 1, A, 0.5),  # a from .6 on: does not count
        found(1, 2, B, 0.3),  # b from .2 on: counts
        found(2, 1, A, 0.55),
        found(3, 2, B, 0.25),
        found(3, 1, ELSEWHERE, 0.7),
        found(4, 1, A, 0.4),
    ]
    (tmp_path / "gt.json").write_text("{}")
    point = OperatingPoint(0.6, "chosen", {"b": 0.2}, {"b": {"objects": 30, "source": "own"}})
    packed = Predictions.of(GroundTruth.of(coco), rows)
    evaluation = Evaluation("toy", tmp_path / "gt.json", coco, packed, point, HOW)
    said = details(evaluation)
    assert said["operating_point"] == {
        "threshold": 0.6,
        "source": "chosen",
        "by_class": {"b": 0.2},
        "sources": {"b": {"objects": 30, "source": "own"}},
    }
    at_point = said["at_operating_point"]
    assert (at_point["true_positives"], at_point["false_positives"]) == (2, 1)
    assert (at_point["sensitivity"], at_point["precision"]) == (0.5, 0.666667)
    # Images 1 and 3 of three are called, each by b or by the false alarm; 4 is not.
    level = said["image_level"]
    assert (level["sensitivity"], level["specificity"]) == (0.666667, 1.0)
    assert said["errors"]["background"]["count_at_operating_point"] == 1
    assert said["figures"]["score_threshold"] == 0.6
    written = tables(evaluation)
    by_class = {row["class"]: row["sensitivity"] for row in written["per_class.csv"]}
    assert by_class == {"a": 0.0, "b": 1.0}
    cells = {(r["true"], r["predicted"]): r["count"] for r in written["confusion.csv"]}
    assert cells[("b", "b")] == 2 and cells[("a", "background")] == 2
    sizes = {row["value"]: row["sensitivity"] for row in written["subgroups.csv"]}
    assert sizes["medium"] == 0.5  # all four objects


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Bright and dim squares, one of each in every image."""
    folder = tmp_path_factory.mktemp("two") / "coco"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 6), ("val", LEAST_OBJECTS), ("test", 4)):
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 40, (48, 64), dtype=np.uint8)
            for category, (value, left) in enumerate(((200, 2), (100, 34)), start=1):
                x, y = left + int(rng.integers(0, 8)), int(rng.integers(2, 24))
                pixels[y : y + 20, x : x + 20] += value
                box = {"image_id": i + 1, "category_id": category, "bbox": [x, y, 20, 20]}
                annotations.append(box)
            Image.fromarray(pixels).save(folder / "images" / f"{name}{i}.png")
            images.append({"file_name": f"{name}{i}.png", "width": 64, "height": 48})
        write_coco(
            folder / f"annotations/{name}.json",
            info={},
            licenses=[],
            categories=[("bright", ""), ("dim", "")],
            images=images,
            annotations=annotations,
        )
    return folder


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    # Two epochs teach little, but among a hundred boxes an image some lie on a square.
    spec = replace(SPEC, num_classes=2, score_threshold=0.0)
    return run(squares, tmp_path_factory.mktemp("trained"), spec=spec, settings=SETTINGS)


def test_every_model_of_a_training_carries_its_own(squares, trained):
    index = CocoIndex(squares / "annotations/val.json", squares / "images")
    for name in ("model.safetensors", "last.safetensors", "best.safetensors"):
        model = SavedModel.load(trained / name)
        _, again = validate(index.path, detect_split(model, index, batch_size=2))
        assert again.recorded().items() <= model.meta.items()
        assert model.score_threshold == again.threshold
        bright, dim = again.by_class["bright"], again.by_class["dim"]
        assert again.sources["dim"]["objects"] == LEAST_OBJECTS
        assert all("highest F1" in said["source"] for said in again.sources.values())
        assert bright != dim
    about = json.loads((trained / "about.json").read_text())
    assert (
        about["class_thresholds"]
        == SavedModel.load(trained / "model.safetensors").meta["class_thresholds"]
    )
    assert about["class_threshold_sources"]["bright"]["objects"] == LEAST_OBJECTS


def test_prediction_and_evaluation_take_the_same_boxes(squares, trained, tmp_path):
    model = SavedModel.load(trained / "model.safetensors")
    lowest = model.meta["class_thresholds"]
    (tmp_path / "in").mkdir()
    for file in (squares / "images").glob("test*.png"):
        shutil.copy(file, tmp_path / "in")
    predict_folder(tmp_path / "in", tmp_path / "out", model, options=Options(workers=0))
    rows = rows_of(tmp_path / "out/detections.csv")
    for name, threshold in lowest.items():
        scores = [float(row["score"]) for row in rows if row["class"] == name]
        assert scores and min(scores) >= threshold
    about = json.loads((tmp_path / "out/run.json").read_text())["score_threshold"]
    assert about["by_class"] == lowest
    assert about["sources"] == model.meta["class_threshold_sources"]
    page = plain((tmp_path / "out/report.html").read_text())
    for name, threshold in lowest.items():
        source = about["sources"][name]
        known = f"{source['sensitivity']:.2f} {source['fp_per_image']:.2f}"
        assert f"{name} {threshold:g} {known} {source['source']}" in page

    alone = Ensemble([model], model.detector.selection)
    evaluate(alone, squares, tmp_path / "e", tmp_path / "m", pictures=1, batch_size=2, workers=0)
    said = json.loads((tmp_path / "e/details.json").read_text())
    at_point = said["at_operating_point"]
    assert len(rows) == at_point["true_positives"] + at_point["false_positives"]
    everything = json.loads((tmp_path / "e/predictions.json").read_text())
    common = sum(row["score"] >= model.score_threshold for row in everything)
    assert len(rows) != common  # the thresholds of the classes do make a difference
    same = compare_runs(squares / "annotations/test.json", tmp_path / "e", tmp_path / "e", HOW)
    assert same["class_thresholds"] == [lowest, lowest]
    assert same["figures"]["precision"]["a"] == at_point["precision"]


def test_pictures_show_the_boxes_that_count(squares, trained, tmp_path):
    model = SavedModel.load(trained / "model.safetensors")
    index = CocoIndex(squares / "annotations/test.json", squares / "images")
    rows = [found(1, 1, [5, 5, 20, 20], 0.5), found(1, 2, [30, 5, 20, 20], 0.5)]

    def drawn(results, **by_class):
        point = OperatingPoint(0.4, "chosen", by_class)
        draw_pictures(index, results, model.intensity, point, tmp_path, 1)
        return (tmp_path / "000001.png").read_bytes()

    assert drawn(rows, dim=0.6) == drawn(rows[:1], dim=0.6)
    assert drawn(rows, dim=0.5) != drawn(rows[:1], dim=0.5)


def plain(text):
    """Without tags and with single spaces."""
    return " ".join(re.sub("<[^>]*>", " ", text).split())


def test_the_page_of_a_dataset_shows_the_scores_of_the_classes(tmp_path):
    folder = make_run(tmp_path) / "rsna/evaluate"
    said = json.loads((folder / "details.json").read_text())
    source = "highest F1 at IoU 0.5 on the validation split (0.5, 30 objects)"
    said["operating_point"] |= {
        "by_class": {"mass": 0.41, "nodule": 0.31},
        "sources": {"mass": {"objects": 30, "source": source}},
    }
    (folder / "details.json").write_text(json.dumps(said))
    write_page(Run.read("rsna", tmp_path, tmp_path), tmp_path / "p.html")
    page = plain((tmp_path / "p.html").read_text())
    assert "At the operating point: boxes with a score from that of their class" in page
    assert f"mass 0.410 {source} nodule 0.310 n/a" in page
    assert "Ring: the operating point; each class has its own score" in page


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        (None, ["it carries no validation figures"]),
        ({"AP": None, "objects": 0}, ["it carries no validation figures"]),
        ({"AP": 0.1, "objects": 20}, []),
        ({"AP": 0.0994, "objects": 20}, ["AP 0.099 on its validation split"]),
        ({"AP": 0.5, "objects": 1}, ["chosen on 1 object of its validation split, fewer than 20"]),
        ({"AP": 0.0, "objects": 2}, ["AP 0.000", "chosen on 2 objects"]),
    ],
)
def test_a_model_says_why_it_should_not_be_relied_on(validation, said):
    assert not any(
        "chosen on" in line for line in doubts({"validation": validation}, own_threshold=True)
    )
    told = doubts({} if validation is None else {"validation": validation})
    assert len(told) == len(said)
    assert all(words in line for words, line in zip(said, told, strict=True))
