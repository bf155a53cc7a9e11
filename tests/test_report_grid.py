"""The table dataset x backbone x arm, with figures worked by hand."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_factory import DETECTOR, make_run, rows_of

from pipeline.report.grid.cells import Spread, build, over_seeds
from pipeline.report.grid.experiments import Experiment, Reference, from_folders, nested
from pipeline.report.grid.formats import NOT_WIDENED, write_grid

NOW = {
    "model.backbone": "vit",
    "model.pool_layers": 2,
    "model.concepts": 16,
    "model.width": 0,
    "model.copies": False,
    "train.seed": 0,
}
REFERENCE = Reference(
    pool_layers=2,
    concepts=16,
    widths={"vit": 148},
    settings={"rsna": {"image_size": 64, "epochs": 12, "lr": 0.001, "train_sizes": ()}},
    now=NOW,
)
PLAIN = {"pool_layers": 0, "concepts": 0}


def folders_of(root, arms):
    """A folder of runs per (detector, seed, AP)."""
    folders = []
    for i, (detector, seed, ap) in enumerate(arms):
        figures = {"AP": ap, "AP50": 0.5, "AP75": None, "AR100": 0.25}
        runs = root / f"run{i}"
        folders.append(make_run(runs, "rsna", figures=figures, detector=detector, seed=seed))
    return folders


def grid_of(folders, reference=REFERENCE, paired=lambda a, b: None):
    return build(from_folders(folders, ["rsna"]), reference, paired)


def cell_of(grid, backbone, arm):
    (found,) = [c for c in grid.cells if (c.backbone, c.arm) == (backbone, arm)]
    return found


@pytest.fixture
def folders(tmp_path):
    plain, full = [0.30, 0.32, 0.34], [0.33, 0.36, 0.36]
    arms = [(PLAIN, seed, ap) for seed, ap in enumerate(plain)]
    arms += [({}, seed, ap) for seed, ap in enumerate(full)]
    return folders_of(tmp_path, [*arms, ({"concepts": 0}, 0, 0.32)])


def test_means_spreads_changes_and_the_paired_test(folders):
    grid = grid_of(folders, paired=lambda a, b: 0.0004)
    plain, full = cell_of(grid, "vit", "baseline"), cell_of(grid, "vit", "ACP+CAT")
    assert plain.seeds == full.seeds == (0, 1, 2) and grid.left_out == []
    assert plain.figures["AP"].mean == pytest.approx(0.32)
    assert plain.figures["AP"].sd == pytest.approx(0.02)
    assert plain.figures["AP75"] == Spread(None, None)
    assert full.change == pytest.approx(0.35 / 0.32 - 1)
    # differences .03, .04, .02: t = .03 / (.01 / sqrt 3) = sqrt 27; p = 1 - t / sqrt(2 + t^2)
    assert full.p_seeds == pytest.approx(1 - (27 / 29) ** 0.5)
    assert full.test == "paired t, 3 seeds" and full.p_images == 0.0004
    acp = cell_of(grid, "vit", "ACP")
    assert (acp.seeds, acp.figures["AP"].sd, acp.p_seeds) == ((0,), None, None)
    assert acp.test == "fewer than 2 seeds"


def test_seeds_that_differ_are_tested_by_welch():
    # means .25 and .45, variance .005 each: t = .2 / sqrt(.005), 2 degrees of freedom
    p, test = over_seeds({0: 0.2, 1: 0.3}, {2: 0.4, 3: 0.5})
    assert test == "Welch t" and p == pytest.approx(1 - (8 / 10) ** 0.5)
    assert over_seeds({0: 0.2, 1: 0.3}, {0: 0.4, 1: 0.5}) == (None, "no spread")
    assert over_seeds({0: 0.2, 1: 0.3}, {0: 0.4}) == (None, "fewer than 2 seeds")
    assert over_seeds({}, {}) == (None, "fewer than 2 seeds")


def test_the_patients_are_compared_for_the_lowest_common_seed(tmp_path):
    folders = folders_of(tmp_path, [(PLAIN, 1, 0.3), (PLAIN, 2, 0.3), ({}, 2, 0.4), ({}, 3, 0.4)])
    asked = []
    grid_of(folders, paired=lambda a, b: asked.append((a.source[-4:], b.source[-4:])))
    assert asked == [("run1", "run2")]


def test_every_format_and_the_commands_of_empty_cells(folders, tmp_path):
    shown = write_grid(grid_of(folders), tmp_path / "out", ["rsna: SYNTHETIC."])
    lines = (tmp_path / "out/grid.md").read_text()
    assert lines == shown and lines.startswith("> rsna: SYNTHETIC.\n\n## rsna\n")
    assert (
        "| vit | ACP+CAT | 3 | 0.350 ± 0.017 | 0.500 ± 0.000 | n/a | 0.250 ± 0.000 | +9.4% "
        "| 0.035 (paired t, 3 seeds) | n/a |" in lines
    )
    assert "| vit | ACP | 1 | 0.320 | 0.500 | n/a | 0.250 | +0.0% | n/a (fewer than 2" in lines
    assert "| vit | CAT | 0 | `dvc exp run -S model.pool_layers=0 evaluate@rsna` |" in lines
    command = "dvc exp run -S model.backbone=swin -S model.concepts=0 evaluate@rsna"
    assert f"| swin | ACP | 0 | `{command}` |" in lines and NOT_WIDENED in lines

    latex = (tmp_path / "out/grid.tex").read_text()
    assert latex.startswith("% rsna: SYNTHETIC.\n")
    assert r"rsna & vit & ACP+CAT & 3 & 0.350 $\pm$ 0.017 &" in latex and r"+9.4\%" in latex
    assert rf"rsna & swin & ACP & 0 & -- & -- & -- & -- & -- & -- & -- \\ % {command}" in latex
    assert latex.count(r"\\") == 16  # a head and 3 backbones of 5 arms

    header, *rows = rows_of(tmp_path / "out/grid.csv")
    full = dict(zip(header, next(r for r in rows if r[2] == "ACP+CAT"), strict=True))
    assert (full["seeds"], full["mAP_mean"], full["mAP_sd"]) == ("3", "0.35", "0.017321")
    assert (full["change"], full["p_seeds"], full["AP75_mean"]) == ("0.09375", "0.035099", "")
    assert [r[-1] for r in rows if r[1:3] == ["swin", "ACP"]] == [command]

    page = (tmp_path / "out/grid.html").read_text()
    assert "3 of 13 cells are filled." in page and command in page
    assert '<p class="warning" role="note">rsna: SYNTHETIC.</p>' in page


def test_what_does_not_fit_is_left_out_with_the_reason(folders, tmp_path):
    odd = [
        make_run(tmp_path / "a", "rsna", detector=PLAIN, seed=7, epochs=20),
        make_run(tmp_path / "b", "rsna", detector={"pool_layers": 3}, seed=7),
        make_run(tmp_path / "c", "rsna", seed=7, training_annotations_sha256="ff"),
        make_run(tmp_path / "d", "rsna", figures={"AP": 0.9}, seed=0),
        make_run(tmp_path / "e", "rsna", detector=PLAIN | {"width": 160}, seed=7),
    ]
    grid = grid_of([*folders, *odd])
    assert [line.removeprefix(tmp_path.as_posix()) for line in grid.left_out] == [
        "/a, rsna: epochs 20 instead of 12",
        "/b, rsna: no arm of the table (backbone vit, pool_layers 3, concepts 16, width 0, "
        "copies False)",
        "/c, rsna: trained on other data than most of this dataset's",
        f"/d, rsna: same cell and seed as {tmp_path}/run3, other figures; the first is taken",
        "/e, rsna: no arm of the table (backbone vit, pool_layers 0, concepts 0, width 160, "
        "copies False)",
    ]
    assert cell_of(grid, "vit", "ACP+CAT").figures["AP"].mean == pytest.approx(0.35)


def test_other_backbones_get_rows_when_there_are_records_of_them():
    record = Experiment("x", "rsna", DETECTOR | {"backbone": "glnet"}, 0, {}, "", {"AP": 0.1})
    names = [c.backbone for c in build([record], REFERENCE, lambda a, b: None).cells]
    assert list(dict.fromkeys(names)) == ["vit", "swin", "dat", "glnet"]


def test_commands_repeat_what_was_changed_and_ask_for_the_next_seed(folders):
    changed = Reference(2, 16, {}, REFERENCE.settings, NOW, ("recipe=paper", "datasets=[a, b]"))
    assert changed.command("rsna", "vit", "ACP+CAT", 1) == (
        "dvc exp run -S train.seed=1 -S recipe=paper -S 'datasets=[a, b]' evaluate@rsna"
    )
    assert cell_of(grid_of(folders), "vit", "ACP").command == (
        "dvc exp run -S model.concepts=0 -S train.seed=1 evaluate@rsna"
    )


def test_a_lock_holds_groups_and_dotted_names():
    flat = {"recipe": "sample", "recipes.sample.epochs.rsna": 3, "recipes.sample.batch_size": 8}
    flat["model"] = {"concepts": 4}
    assert nested(flat) == {
        "recipe": "sample",
        "recipes": {"sample": {"epochs": {"rsna": 3}, "batch_size": 8}},
        "model": {"concepts": 4},
    }


STAGES = """
stages:
  train:
    matrix: {dataset: "${datasets}"}
    cmd: >-
      mkdir -p runs/${item.dataset}/train &&
      cp params.yaml runs/${item.dataset}/train/model.safetensors
    params: [recipe, model, train]
    outs: ["runs/${item.dataset}/train"]
  evaluate:
    matrix: {dataset: "${datasets}"}
    cmd: python evaluate.py ${item.dataset}
    deps: ["runs/${item.dataset}/train/model.safetensors"]
    metrics: [{"runs/metrics/${item.dataset}.json": {cache: false}}]
"""
EVALUATE = """
import json, pathlib, sys, yaml
name = sys.argv[1]
model = yaml.safe_load(open(f"runs/{name}/train/model.safetensors"))["model"]
out = pathlib.Path(f"runs/metrics/{name}.json")
out.parent.mkdir(exist_ok=True)
ap = model["concepts"] / 100
out.write_text(json.dumps({name: {"AP": ap, "AP50": ap, "AP75": ap, "AR100": ap}}))
"""
PARAMS = "datasets: [rsna, nih]\nrecipe: sample\nmodel: {pool_layers: 2, concepts: 16}\n"


@pytest.mark.slow
def test_experiments_of_dvc_are_read_with_the_parameters_that_made_each_metric(tmp_path):
    """An experiment on one dataset carries the other's old metrics; they stay where they belong."""
    env = os.environ | {"DVC_NO_ANALYTICS": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    for who in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{who}_NAME": "test", f"GIT_{who}_EMAIL": "test@test"}

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    (tmp_path / "params.yaml").write_text(PARAMS + "train: {seed: 0}\n")
    (tmp_path / ".gitignore").write_text("runs/*\n!runs/metrics/\n")
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    run("dvc", "repro", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "first")
    run("dvc", "exp", "run", "-q", "-S", "model.concepts=0", "evaluate@rsna")
    run(
        "dvc",
        "exp",
        "run",
        "-q",
        "-S",
        "model.concepts=0",
        "-S",
        "model.pool_layers=0",
        "train@rsna",
    )
    (tmp_path / "params.yaml").write_text(PARAMS + "train: {seed: 0}\n")
    run(sys.executable, "-m", "pipeline", "report", "--grid", "-o", "out")
    with (tmp_path / "out/grid.csv").open(newline="") as stream:
        found = {
            (row["dataset"], row["arm"]): row["mAP_mean"]
            for row in csv.DictReader(stream)
            if row["seeds"] != "0"
        }
    assert found == {
        ("rsna", "ACP+CAT"): "0.16",
        ("nih", "ACP+CAT"): "0.16",
        ("rsna", "ACP"): "0.0",
    }
    assert json.loads((tmp_path / "runs/metrics/rsna.json").read_text())["rsna"]["AP"] == 0.0
