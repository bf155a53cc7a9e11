"""The command line as a person meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def descry(*arguments, cwd=ROOT):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture
def yolo(tmp_path):
    """Six images in YOLO folders, without any parameters file beside them."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "raw/train" / kind).mkdir(parents=True)
    for i in range(6):
        pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"raw/train/images/a{i}.png")
        (tmp_path / f"raw/train/labels/a{i}.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "raw/data.yaml").write_text("names: [cell]\n")
    return tmp_path


def test_a_dataset_is_converted_outside_of_the_project(yolo):
    done = descry("convert", "brain-tumor", "--raw", "raw", "--out", "coco", cwd=yolo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("brain_tumor: 6 images in, 6 out")
    assert json.loads((yolo / "coco/report.json").read_text())["boxes"]["out"] == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "nhi"), "unknown dataset 'nhi': must be one of brain_tumor"),
        (("convert", "rsna", "--raw", "nowhere", "--out", "o"), "nowhere: the raw folder of rsna"),
        (("convert", "rsna", "--raw", "raw", "--out", "o"), "this looks like"),
        (("convert", "nih", "-S", "convert.nih.negatives=-1"), "convert.nih.negatives = -1"),
        (("train", "nih", "--coco", "nowhere"), "nowhere"),
        (("evaluate", "nih", "--checkpoint", "no.pt"), "no.pt: no such checkpoint"),
        (("predict", "raw", "-o", "o", "--checkpoint", "no.pt"), "no.pt: no such checkpoint"),
        (("report", "nowhere"), "no evaluated dataset"),
        (("compare", "raw", "raw"), "raw/details.json: not readable ([Errno 2] No such file"),
    ],
)
def test_a_wrong_call_ends_with_2_and_says_what_to_do(yolo, arguments, words):
    done = descry(*arguments, cwd=yolo)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not (yolo / "o").exists()


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ("model.pol_layers=3", "model.pool_layers"),
        ("epochs=3", "pretrain.epochs or recipes.sample.epochs or recipes.paper.epochs"),
        ("lr=0.1", "pretrain.lr or train.lr"),
    ],
)
def test_a_misspelt_or_misplaced_key_leads_to_the_right_one(yolo, change, meant):
    done = descry("train", "rsna", "-S", change, cwd=yolo)
    assert done.returncode == 2 and f"Did you mean {meant}?" in done.stderr


IMPORTED = """
import sys
from pipeline.cli import main
try:
    main()
finally:
    print(*sorted({"torch", "cv2", "pydicom"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("train", "--help"), 0),
        (("predict", "nowhere", "-o", "o", "--checkpoint", "no"), 2),
        (("explain", "raw", "-o", "o", "--checkpoint", "no"), 2),
        (("train", "nih", "--coco", "nowhere"), 2),
        (("evaluate", "nih", "--checkpoint", "no"), 2),
        (("evaluate", "nih", "-S", "model.pool_layers=99"), 2),
    ],
)
def test_help_and_refusals_import_nothing_that_takes_time(yolo, arguments, code):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORTED, *arguments]
    done = subprocess.run(command, cwd=yolo, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, "")


def test_debug_shows_the_traceback(yolo):
    done = descry("--debug", "convert", "nhi", cwd=yolo)
    assert "Traceback" in done.stderr and "unknown dataset 'nhi'" in done.stderr


def test_an_error_of_the_system_names_its_file(yolo):
    (yolo / "coco").write_text("in the way")
    done = descry("convert", "brain-tumor", "--raw", "raw", "--out", "coco/here", cwd=yolo)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "coco" in done.stderr and "File exists" in done.stderr
