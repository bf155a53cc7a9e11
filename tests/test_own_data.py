"""A dataset of one's own through the whole pipeline, set up as docs/how-to/own_data.md says."""

import json
import re
import shutil
from typing import Any

import pytest
import yaml
from project_factory import ROOT, commit, copy_project, run

SAMPLE = ROOT / "datasets/ccellbio/sample/BCCD"
PICTURES = 24
pytestmark = pytest.mark.slow


def merged(tree: Any, more: Any) -> Any:
    if not (isinstance(tree, dict) and isinstance(more, dict)):
        return more
    return tree | {key: merged(tree.get(key), value) for key, value in more.items()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project without any sample, with cell pictures in its only dataset, run once."""
    folder = tmp_path_factory.mktemp("own")
    written = re.search(
        r"```yaml\n(.*?)```", (ROOT / "docs/how-to/own_data.md").read_text(), re.DOTALL
    )
    params = merged(copy_project(folder, (), epochs=1), yaml.safe_load(written[1]))
    raw = folder / "datasets/my_cells/raw"
    for name, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (raw / name).mkdir(parents=True)
        for file in sorted((SAMPLE / name).glob(f"*.{suffix}"))[:PICTURES]:
            shutil.copy(file, raw / name)
    (raw.parent / "README.md").write_text("# My cells\n\nFrom the microscope next door.\n")
    params["recipes"]["sample"]["epochs"]["my_cells"] = 1
    params["predict"] = {
        "model": "runs/my_cells/train/model.safetensors",
        "source": "datasets/my_cells/raw/JPEGImages",
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    commit(folder, "start")
    run(folder, "dvc", "repro")
    return folder


def test_all_stages_run_on_it(project):
    assert "| my_cells " in (project / "runs/report/table.md").read_text()
    metrics = json.loads((project / "runs/metrics/my_cells.json").read_text())["my_cells"]
    assert metrics["images"] > 0 and metrics["objects"] > 0
    assert "microscope next door" in (project / "runs/report/datasets/my_cells.html").read_text()
    about = json.loads((project / "runs/my_cells/train/about.json").read_text())
    assert about["dataset"] == "my_cells" and about["training"]["augment"] == "microscopy"
    counts = json.loads((project / "runs/predict/run.json").read_text())["counts"]
    assert counts["processed"] == PICTURES


def test_a_second_repro_does_nothing_and_experiments_convert_nothing(project):
    assert "Running stage" not in run(project, "dvc", "repro")
    said = run(project, "dvc", "exp", "run", "-S", "model.pool_layers=0", "evaluate@my_cells")
    ran = re.findall(r"Running stage '(.*?)'", said)
    assert ran == ["check", "pretrain@my_cells", "train@my_cells", "evaluate@my_cells"]
    table = run(project, "python", "-m", "pipeline", "report", "--grid")
    assert re.search(r"\| vit \| CAT \| 1 \| \d", table)
