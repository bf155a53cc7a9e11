"""The pipeline as DVC runs it, end to end on the samples, with everything made small."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from project_factory import commit, copy_project, environment, run

DATASETS = ("brain_tumor", "rsna")  # one of ordinary images, one of DICOM
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with one epoch on two datasets at 64 px, under git, run once."""
    folder = tmp_path_factory.mktemp("project")
    params = copy_project(folder, DATASETS, epochs=1)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    commit(folder, "start")
    run(folder, "dvc", "repro")
    commit(folder, "first run")
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
    first, lock = outputs(project), (project / "dvc.lock").read_bytes()
    assert len(first) > 80
    run(project, "dvc", "repro", "--force")
    second = outputs(project)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert (project / "dvc.lock").read_bytes() == lock  # no hash has seen a time


def test_a_model_knob_retrains_but_converts_nothing(project):
    said = run(project, "dvc", "exp", "run", "-S", "model.pool_layers=3")
    ran = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    chain = ("pretrain", "train", "evaluate", "page")
    assert set(ran) == {
        *(f"{stage}@{name}" for stage in chain for name in DATASETS),
        "check",
        "predict",
        "report",
    }
    about = json.loads((project / "runs/rsna/train/about.json").read_text())
    assert about["detector"]["pool_layers"] == 3
    shown = json.loads(run(project, "dvc", "exp", "show", "--json"))
    text = json.dumps(shown)
    assert all(f'"{name}": {{"AP"' in text for name in DATASETS)


def test_a_wrong_value_stops_before_any_stage_works(project):
    done = subprocess.run(
        ["dvc", "repro", "--force"],
        cwd=_with_wrong_value(project),
        env=environment(project),
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
