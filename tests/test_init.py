"""A project of one's own: what `descry init` writes, and the installed package that runs it."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from project_factory import ROOT
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import load_params, validate
from pipeline.errors import DescryError
from pipeline.project.templates import template

IMAGES = 12


@pytest.fixture
def cells(tmp_path):
    """A YOLO folder with a box in every image but the first."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "My Cells"
    for kind in ("images", "labels"):
        (folder / "train" / kind).mkdir(parents=True)
    for i in range(IMAGES):
        pixels = rng.integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"train/images/a{i}.png")
        (folder / f"train/labels/a{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n" if i else "")
    (folder / "data.yaml").write_text("names: [blast]\n")
    return folder


def init(*arguments):
    return CliRunner().invoke(app, ["init", *map(str, arguments)], catch_exceptions=False)


def test_a_folder_becomes_a_project(cells, tmp_path):
    project = tmp_path / "project"
    said = init(project, "--data", cells, "--augment", "microscopy").output
    assert "my_cells: yolo layout, 12 images, 11 boxes (blast 11)" in said
    params = load_params(project / "params.yaml")
    assert params.datasets == ("my_cells",) and params.data.source == "raw"
    assert params.convert.my_cells.layout == "yolo"
    raw = project / "datasets/my_cells/raw"
    assert raw.is_symlink() and raw.resolve() == cells
    stages = yaml.safe_load((project / "dvc.yaml").read_text())
    assert not any(
        dep.startswith("pipeline") for stage in stages["stages"].values() for dep in stage["deps"]
    )
    assert "runs/my_cells/train/history.csv" in (project / "dvc.yaml").read_text()
    assert "rsna" not in json.dumps(stages)
    assert (project / "requirements.txt").read_text() == "descry==0.1.0\n"
    assert not list(project.rglob("*.tmp"))


def test_only_what_belongs_to_datasets_differs_from_the_repository(cells, tmp_path):
    init(tmp_path / "project", "--data", cells)
    ours = yaml.safe_load((ROOT / "params.yaml").read_text())
    theirs = yaml.safe_load((tmp_path / "project/params.yaml").read_text())
    changed = {key for key in ours if ours[key] != theirs[key]}
    assert changed == {
        "datasets", "data", "convert", "augment", "modality", "predict", "recipes"
    }  # fmt: skip
    for key in ("recipe", "model", "train", "evaluate", "machine"):
        assert ours[key] == theirs[key]
    text = (tmp_path / "project/params.yaml").read_text()
    assert "# ACP depth; 0: no ACP" in text and "# for lr_batch images a step" in text


def test_more_datasets_join_it(cells, tmp_path):
    project = tmp_path / "project"
    init(project, "--data", cells)
    init(project, "--data", cells, "--name", "others", "--augment", "flip")
    params = load_params(project / "params.yaml")
    assert params.datasets == ("my_cells", "others")
    assert "runs/others/evaluate/froc.csv" in (project / "dvc.yaml").read_text()


def test_without_data_there_is_a_folder_to_fill(tmp_path):
    said = init(tmp_path / "project").output
    assert "put images and labels into" in said
    assert (tmp_path / "project/datasets/my_data/raw").is_dir()
    assert load_params(tmp_path / "project/params.yaml").datasets == ("my_data",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nowhere"), "--data nowhere: no such folder"),
        (("--data", "My Cells", "--layout", "voc"), "layout=voc"),
        (("--data", "My Cells", "--layout", "vco"), "--layout vco: must be one of auto, coco"),
        (("--data", "My Cells", "--augment", "flop"), "flop"),
        (("--data", "My Cells", "--name", "A b"), "--name A b: must be of small letters"),
        (("--data", "My Cells", "--name", "grid"), "grid: is no name for a dataset"),
    ],
)
def test_what_is_refused_leaves_nothing(cells, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DescryError, match=words):
        init("project", *arguments)
    assert not (tmp_path / "project").exists()


def test_a_project_is_not_written_over(cells, tmp_path):
    init(tmp_path, "--data", cells)
    before = (tmp_path / "params.yaml").read_bytes()
    with pytest.raises(DescryError, match="add a dataset with --data"):
        init(tmp_path)
    with pytest.raises(DescryError, match="has a dataset my_cells"):
        init(tmp_path, "--data", cells)
    assert (tmp_path / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(("place", "scm"), [(".", True), ("deep/inside", True), ("", False)])
def test_dvc_starts_with_git_or_without(tmp_path, place, scm):
    if scm:
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    init(tmp_path / place)
    config = (tmp_path / place / ".dvc/config").read_text()
    assert ("no_scm" in config) is not scm and "analytics = false" in config
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status"],
        cwd=tmp_path / place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_templates_are_the_repository_s_own_files():
    assert template("params.yaml") == (ROOT / "params.yaml").read_text()
    assert template("dvc.yaml") == (ROOT / "dvc.yaml").read_text()
    links = {
        name: (ROOT / "pipeline/project" / name).is_symlink()
        for name in ("params.yaml", "dvc.yaml")
    }
    assert all(links.values()), links  # `sed -i` makes copies of links
    validate(yaml.safe_load(template("params.yaml")))


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """An environment with the wheel in it, and what it needs lent by this one; its bin folder."""
    folder = tmp_path_factory.mktemp("installed")
    for name in ("pipeline", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "params.yaml",
                 "dvc.yaml", ".gitignore", ".dvcignore", ".dvc"):  # fmt: skip
        source, target = ROOT / name, folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "tmp", "cache")
            shutil.copytree(source, target, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "wheel", *wheels, str(folder / "source")], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env/bin/python"
    [wheel] = folder.glob("descry-*.whl")
    here = [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(here, check=True)
    [site] = (folder / "env/lib").glob("*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env/bin"


@pytest.mark.slow
def test_the_wheel_works_outside_of_the_repository(installed, cells, tmp_path):
    def run(*command):
        env = {"PATH": f"{installed}:/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    project = tmp_path / "project"
    project.mkdir()
    where = run("python", "-c", "import pipeline; print(pipeline.__file__)")
    assert str(installed.parent) in where
    run("descry", "init", "--data", str(cells))
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["recipes"]["sample"] |= {"image_size": 64, "epochs": {"my_cells": 1}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    run("python", "-m", "dvc", "repro")
    metrics = json.loads((project / "runs/metrics/my_cells.json").read_text())
    assert metrics["my_cells"]["images"] > 0
    model = "runs/my_cells/train/model.safetensors"
    run("descry", "predict", str(cells / "train/images"), "-o", "found", "--checkpoint", model)
    counts = json.loads((project / "found/run.json").read_text())["counts"]
    assert counts["processed"] == IMAGES
    assert "are up to date" in run("python", "-m", "dvc", "repro")
