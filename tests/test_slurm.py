"""Processes that srun has started: the bits of the same processes under torchrun, and refusals."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_factory import make_squares, same_bytes

from pipeline.errors import DescryError
from pipeline.train.processes import Processes, find_processes, slurm

ROOT = Path(__file__).parents[1]
TRAIN = (
    *("-m", "pipeline", "train", "rsna", "-S", "machine.device=cpu", "-S", "model.concepts=4"),
    *("-S", "recipes.sample.image_size=64", "-S", "recipes.sample.model.fpn_channels=16"),
    *("-S", "recipes.sample.batch_size=2", "-S", "recipes.sample.epochs.rsna=12"),
    *("-S", "machine.checkpoint_minutes=0"),
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def variables(rank: int, nodes: int, per_node: int) -> dict[str, str]:
    """What tells a task of `srun --nodes --ntasks-per-node` its place (seen with SLURM 22.05)."""
    given = {
        "JOB_ID": "4711",
        "JOB_NAME": "train.sh",
        "JOB_NUM_NODES": nodes,
        "JOB_NODELIST": "localhost" if nodes == 1 else "localhost,other",
        "LOCALID": rank % per_node,
        "NNODES": nodes,
        "NODEID": rank // per_node,
        "NODELIST": "localhost" if nodes == 1 else "localhost,other",
        "NPROCS": nodes * per_node,
        "NTASKS": nodes * per_node,
        "NTASKS_PER_NODE": per_node,
        "PROCID": rank,
        "STEP_ID": "0",
        "TASKS_PER_NODE": f"{per_node}" if nodes == 1 else f"{per_node}(x{nodes})",
    }
    return {f"SLURM_{name}": str(value) for name, value in given.items()}


@pytest.fixture
def job(monkeypatch):
    """job(rank, nodes, per_node, without): this process as a task of a job, less some variables."""
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)

    def become(rank: int, nodes: int, per_node: int, *without: str) -> None:
        for name, value in variables(rank, nodes, per_node).items():
            monkeypatch.setenv(name, value)
        for name in without:
            monkeypatch.delenv(name)

    return become


def test_the_place_of_a_task(job):
    job(5, 2, 4)
    assert find_processes(1) == Processes(5, 4, 2)
    job(0, 1, 1, "SLURM_STEP_ID")  # a batch script with one task needs no srun
    assert find_processes(1) == Processes(0, 1, 1)


def test_lightning_does_not_requeue_nor_bring_back_a_state_of_its_own(job, monkeypatch):
    assert slurm() is None
    job(1, 1, 2)
    environment = slurm()
    assert environment.global_rank() == 1 and not environment.auto_requeue
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun in a job
    assert slurm() is None


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("SLURM_STEP_ID", "2 tasks, but this command was not started by srun; put srun before it"),
        ("SLURM_NTASKS_PER_NODE", "2 tasks on 1 nodes .* use --ntasks-per-node"),
    ],
)
def test_processes_that_would_wait_for_ever_are_refused(job, missing, words):
    job(0, 1, 2, missing)
    with pytest.raises(DescryError, match=words):
        find_processes(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slurm")
    make_squares(folder / "coco", (("train", 9), ("val", 3)))
    return folder


@pytest.fixture(scope="module")
def under_torchrun(folder) -> Path:
    process = start(folder, "torchrun", {}, *TORCHRUN)
    assert process.wait() == 0, said(folder, "torchrun")
    return folder / "torchrun"


def start(folder: Path, out: str, environment: dict[str, str], *launcher: str) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    where = ("--coco", folder / "coco", "--out", folder / out)
    scratch = ("-S", f"machine.scratch={folder / out}.scratch")
    command = [sys.executable, *launcher, *TRAIN, *scratch, *map(str, where)]
    with (folder / f"{out}.txt").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def said(folder: Path, out: str) -> str:
    return (folder / f"{out}.txt").read_text()


def srun(folder: Path, out: str, nodes: int, per_node: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("", 0))
        port = {"MASTER_PORT": str(free.getsockname()[1])}
    ranks = range(nodes * per_node)
    return [start(folder, out, variables(r, nodes, per_node) | port) for r in ranks]


def ended(tasks: list[subprocess.Popen]) -> list[int]:
    """Exit codes; as with --kill-on-bad-exit, one that fails takes the others with it."""
    while any(task.poll() is None for task in tasks):
        if any(task.poll() for task in tasks):
            for task in tasks:
                task.kill()
        time.sleep(0.1)
    return [task.wait() for task in tasks]


@pytest.mark.slow
def test_tasks_on_one_node_compute_what_torchrun_computes(folder, under_torchrun):
    assert ended(srun(folder, "one_node", 1, 2)) == [0, 0], said(folder, "one_node")
    assert same_bytes(under_torchrun, folder / "one_node") == []


@pytest.mark.slow
def test_a_requeued_job_on_two_nodes_goes_on_to_the_same_bits(folder, under_torchrun):
    out = "two_nodes"
    tasks = srun(folder, out, 2, 1)
    while "epoch 1 of 12:" not in said(folder, out) and all(task.poll() is None for task in tasks):
        time.sleep(0.02)
    for task in tasks:
        task.terminate()  # as SLURM does it: preemption, end of the time, scontrol requeue
    codes = [task.wait() for task in tasks]
    assert -signal.SIGTERM in codes and 0 not in codes, said(folder, out)
    assert not (folder / out / "model.safetensors").exists()
    assert ended(srun(folder, out, 2, 1)) == [0, 0], said(folder, out)
    assert "goes on after" in said(folder, out)
    assert same_bytes(under_torchrun, folder / out) == []
