"""Two processes on a CPU compute what one does with the same images a step."""

import os
import subprocess
import sys
from pathlib import Path

import ddp_program
import pytest
import torch
from train_factory import make_squares, same_bytes

from pipeline.models.saved import SavedModel
from pipeline.train.processes import Processes, find_processes

PROGRAM = Path(ddp_program.__file__)
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(*arguments, **environment) -> int:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[1])}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True)
    if done.returncode and "DIE_AT" not in environment:
        raise AssertionError(done.stdout + done.stderr)
    return done.returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    make_squares(folder / "coco", (("train", 9), ("val", 3)))
    return folder


@pytest.mark.slow
def test_losses_and_gradients_equal_those_of_one_process(folder):
    ddp_program.gradients(folder)
    start(*TWO, PROGRAM, "gradients", folder)
    one, two = (torch.load(folder / f"gradients{n}.pt", weights_only=True) for n in (1, 2))
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a["ids"] == b["ids"] and len(set(a["ids"])) == 4
        # Losses are summed in float32, over some 1e4 terms in pairs: 14 roundings of 6e-8.
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-6)
        # All else is float64: some 1e4 terms in another order, 1e-16 each.
        largest = max(float(g.abs().max()) for g in a["gradients"])
        for g, h in zip(a["gradients"], b["gradients"], strict=True):
            assert float((g - h).abs().max()) <= 1e-12 * largest


@pytest.mark.slow
def test_a_run_over_two_processes_repeats_resumes_and_follows_one_process(folder):
    ddp_program.whole(folder)
    start(*TWO, PROGRAM, "train", folder)
    assert start(*TWO, PROGRAM, "train", folder, OUT="killed", DIE_AT="3") != 0
    assert not (folder / "killed/model.safetensors").exists()
    start(*TWO, PROGRAM, "train", folder, OUT="killed")
    assert same_bytes(folder / "out2", folder / "killed") == []
    one, two = (SavedModel.load(folder / f"out{n}/model.safetensors") for n in (1, 2))
    assert one.meta["training"]["images_per_step"] == two.meta["training"]["images_per_step"] == 4
    rows = [(folder / f"out{n}/history.csv").read_text().splitlines() for n in (1, 2)]
    for a, b in zip(*rows, strict=True):
        first = [list(map(float, row.split(",")[:5])) for row in (a, b) if row[0] != "e"]
        # AdamW divides by the gradient's own size, which turns rounding of nearly zero gradients
        # into steps of full length: four steps of at most 1e-3 in weights of about 0.1
        assert not first or first[0] == pytest.approx(first[1], rel=1e-2)


def test_processes_are_counted_by_whoever_started_them(monkeypatch):
    for name in [n for n in os.environ if n.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    assert find_processes(1) == Processes(0, 1, 1) and find_processes(4).world == 4
    monkeypatch.setenv("LOCAL_RANK", "3")  # as Lightning sets it for the processes it starts
    assert find_processes(4) == Processes(3, 4, 1)
    slurm = {"NTASKS": "8", "NNODES": "2", "PROCID": "5", "JOB_NAME": "train", "JOB_ID": "1"}
    for name, value in (slurm | {"STEP_ID": "0", "NTASKS_PER_NODE": "4"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert find_processes(1) == Processes(5, 4, 2)
    torchrun = {"RANK": "6", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "6"}
    for name, value in (torchrun | {"TORCHELASTIC_RUN_ID": "x"}).items():
        monkeypatch.setenv(name, value)
    assert find_processes(1) == Processes(6, 8, 2)
