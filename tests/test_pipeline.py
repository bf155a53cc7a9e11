"""The pipeline as DVC runs it, end to end on the samples, with everything made small."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DATASETS = ("brain_tumor", "rsna")  # one of ordinary images, one of DICOM
pytestmark = pytest.mark.slow


def run(folder: Path, *command: str) -> str:
    """Run a command of the project in a folder; fail with its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {
        f"GIT_{who}_{what}": "test@test"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    env = os.environ | names | {"PATH": path, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with one epoch on two datasets at 64 px, under git, run once."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pipeline", ".dvc", "dvc.yaml", ".dvcignore", ".gitignore"):
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "tmp", "cache")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder)
    for name in DATASETS:
        shutil.copytree(ROOT / "datasets" / name / "sample", folder / "datasets" / name / "sample")
        shutil.copy(ROOT / "datasets" / name / "README.md", folder / "datasets" / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["datasets"] = list(DATASETS)
    params["recipes"]["sample"] |= {
        "image_size": 64,
        "epochs": dict.fromkeys(params["recipes"]["sample"]["epochs"], 1),
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "start")
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "first run")
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    """Everything that two runs must give alike."""
    found = {}
    for name in DATASETS:
        chosen = [
            *(folder / "datasets" / name / "coco").rglob("*"),
            *(folder / "runs" / name / "evaluate").rglob("*"),
            folder / "runs" / name / "train/history.csv",
            folder / "runs/metrics" / f"{name}.json",
        ]
        found |= {str(p.relative_to(folder)): p.read_bytes() for p in chosen if p.is_file()}
    predicted = (p for p in (folder / "runs/predict").rglob("*") if p.name != "timing.json")
    return found | {str(p.relative_to(folder)): p.read_bytes() for p in predicted if p.is_file()}


def test_a_second_repro_does_nothing(project):
    assert "Running stage" not in run(project, "dvc", "repro")


def test_everything_is_there(project):
    table = (project / "runs/report/table.md").read_text()
    assert all(name in table for name in DATASETS)
    for name in DATASETS:
        metrics = json.loads((project / f"runs/metrics/{name}.json").read_text())[name]
        assert metrics["images"] > 0 and metrics["objects"] > 0 and 0 <= metrics["AP"] <= 1
    counts = json.loads((project / "runs/predict/run.json").read_text())["counts"]
    assert counts["files"] == counts["processed"] == 16


def test_a_second_run_from_nothing_gives_the_same_bytes(project):
    first = outputs(project)
    assert len(first) > 80
    run(project, "dvc", "repro", "--force")
    second = outputs(project)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_model_knob_retrains_but_converts_nothing(project):
    said = run(project, "dvc", "exp", "run", "-S", "model.pool_layers=3")
    ran = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    assert set(ran) == {
        *(f"{stage}@{name}" for stage in ("train", "evaluate", "page") for name in DATASETS),
        "predict",
        "report",
    }
    about = json.loads((project / "runs/rsna/train/about.json").read_text())
    assert about["detector"]["pool_layers"] == 3
    shown = json.loads(run(project, "dvc", "exp", "show", "--json"))
    text = json.dumps(shown)
    assert all(f'"{name}": {{"AP"' in text for name in DATASETS)


def test_a_wrong_value_stops_before_any_stage_works(project):
    env = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run(
        [Path(sys.executable).parent / "dvc", "repro", "--force"],
        cwd=_with_wrong_value(project),
        env=env | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "model.concepts = 'many'" in said
    assert said.count("Running stage") == 1  # the first stage refused
    run(project, "git", "checkout", "-q", "params.yaml")


def _with_wrong_value(project: Path) -> Path:
    text = (project / "params.yaml").read_text()
    assert "concepts: 16" in text
    (project / "params.yaml").write_text(text.replace("concepts: 16", "concepts: many"))
    return project
