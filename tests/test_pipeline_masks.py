"""Masks as DVC runs them: COD10K's sample and Cheng's phantoms, from raw files to pages."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from project_factory import ROOT, commit, copy_project, run

from pipeline.data.masks import decode

DATASETS = ("cod10k", "brain_tumor")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project under git, with Cheng's files for brain_tumor's sample."""
    folder = tmp_path_factory.mktemp("project")
    params = copy_project(folder, DATASETS, epochs=1)
    sample = folder / "datasets/brain_tumor/sample"
    shutil.rmtree(sample)
    shutil.copytree(ROOT / "datasets/brain_tumor/sample_cheng", sample)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    commit(folder, "start")
    return folder


@pytest.mark.parametrize("task", ["instances", "semantic"])
def test_a_task_with_masks_runs_from_raw_files_to_pages(project: Path, task: str) -> None:
    stages = [f"{stage}@{name}" for stage in ("evaluate", "page") for name in DATASETS]
    run(project, "dvc", "exp", "run", "-S", f"model.task={task}", *stages)
    for name in DATASETS:
        figures = json.loads((project / f"runs/metrics/{name}.json").read_text())[name]
        assert {"mask_AP", "mask_AP50", "dice", "boundary_f"} <= figures.keys()
        assert 0 <= figures["dice"] <= 1
        evaluated = project / "runs" / name / "evaluate"
        details = json.loads((evaluated / "details.json").read_text())
        assert "mask_AP" in details["intervals"]["figures"]
        for row in json.loads((evaluated / "predictions.json").read_text()):
            mask = row["segmentation"]
            assert decode(mask["counts"], *mask["size"]).shape == tuple(mask["size"])
        with (evaluated / "per_class.csv").open() as stream:
            assert {"mask_AP", "dice"} <= set(csv.DictReader(stream).fieldnames or ())
        with (project / "runs" / name / "train/history.csv").open() as stream:
            assert {"val_mask_AP", "val_dice"} <= set(csv.DictReader(stream).fieldnames or ())
        page = next((project / "runs" / name).rglob("*.html"), None) or next(
            (project / "runs/report").rglob(f"{name}*.html")
        )
        assert "Mask AP" in page.read_text()
    model = "runs/cod10k/train/model.safetensors"
    assert f"task: {task}" in run(project, "python", "-m", "pipeline", "show", model)
    found = run(
        project, "python", "-m", "pipeline", "predict", "datasets/cod10k/sample/Test/Image",
        "--out", f"found-{task}", "--checkpoint", model, "--threshold", "0",
    )  # fmt: skip
    assert "failed 0" in found
    coco = json.loads((project / f"found-{task}/detections.coco.json").read_text())
    assert len(coco["images"]) == 20  # in which one epoch may have taught nothing to find
    assert all("counts" in a["segmentation"] for a in coco["annotations"])
