"""Killed under DVC and started again: the bytes of an experiment that was left alone."""

import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from project_factory import commit, copy_project, environment, run

from pipeline.config import load_params
from pipeline.stages.train import train_machine

EPOCHS = 15
CHANGE, OTHER = "train.lr=0.002", "train.lr=0.003"
STAGES = ("check", "convert", "pretrain", "train", "evaluate")
RESULTS = (
    *(
        f"runs/rsna/train/{n}"
        for n in ("model.safetensors", "last.safetensors", "best.safetensors", "history.csv")
    ),
    "runs/rsna/train/about.json",
    "runs/rsna/evaluate/predictions.json",
    "runs/metrics/rsna.json",
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """A repository with one converted dataset, a checkpoint after every step, nothing trained."""
    folder = tmp_path_factory.mktemp("converted")
    params = copy_project(folder, ["rsna"], EPOCHS)
    params["machine"]["checkpoint_minutes"] = 0
    params["evaluate"]["score_threshold"] = 0.0  # so that there are predictions to compare
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())
    stages = {name: pipeline["stages"][name] for name in STAGES}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    commit(folder, "start")
    run(folder, "dvc", "repro", "convert@rsna")
    commit(folder, "converted")
    return folder


@pytest.fixture(scope="module")
def left_alone(converted, tmp_path_factory) -> dict[str, bytes]:
    """Results of the experiment without any interruption."""
    folder = tmp_path_factory.mktemp("left_alone") / "project"
    shutil.copytree(converted, folder)
    run(folder, "dvc", "exp", "run", "-S", CHANGE)
    assert len(results(folder)["runs/rsna/evaluate/predictions.json"]) > 1000
    return results(folder)


@pytest.fixture
def project(converted, tmp_path) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(converted, folder)
    return folder


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


@dataclass
class Started:
    """A command in the background, and all that comes of it: whatever inherits its environment."""

    command: subprocess.Popen
    log: Path
    mark: dict[str, str]

    def said(self) -> str:
        return self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        def variables(process):
            with suppress(psutil.Error):  # ended, or another user's
                return process.environ()
            return {}

        return [p for p in psutil.process_iter() if self.mark.items() <= variables(p).items()]

    def training(self) -> psutil.Process:
        (found,) = (p for p in self.processes() if {"train", "rsna"} <= set(p.cmdline()))
        return found


@contextmanager
def started(folder: Path, *command: str) -> Iterator[Started]:
    """A command that is under way in the block; at its end, kill -9 for all that came of it.

    All are stopped before the first is killed, so that none lives to see another one's end.
    """
    mark = {"STARTED_BY_TEST": uuid.uuid4().hex}
    log = folder.parent / f"{mark['STARTED_BY_TEST']}.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder) | mark,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    of_it = Started(process, log, mark)
    try:
        yield of_it
    finally:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            victims = of_it.processes()
            for victim in victims:
                with suppress(psutil.NoSuchProcess):
                    victim.send_signal(number)
        process.wait()
        psutil.wait_procs(victims)


def in_the_middle(said: Callable[[], str]) -> None:
    """Wait until a training has finished its third epoch."""
    deadline = time.monotonic() + 120
    while f"epoch 3 of {EPOCHS}:" not in said():
        assert time.monotonic() < deadline, said()
        time.sleep(0.02)


def begins_at_the_beginning(said: str) -> bool:
    return f"epoch 1 of {EPOCHS}:" in said and "goes on after" not in said


def goes_on(said: str) -> bool:
    return f"epoch 1 of {EPOCHS}:" not in said and "goes on after" in said


def without_a_model(project: Path) -> bool:
    return not list(project.glob("**/model.safetensors"))


@pytest.mark.slow
def test_repro(project, left_alone):
    params = project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("lr: 0.001", CHANGE.replace("train.lr=", "lr: ")))
    assert params.read_text() != before
    with started(project, "dvc", "repro") as first:
        in_the_middle(first.said)
    assert begins_at_the_beginning(first.said()) and without_a_model(project)
    assert goes_on(run(project, "dvc", "repro"))
    assert results(project) == left_alone


@pytest.mark.slow
def test_exp_run_with_another_experiment_between(project, left_alone):
    with started(project, "dvc", "exp", "run", "-S", CHANGE) as first:
        in_the_middle(first.said)
    with started(project, "dvc", "exp", "run", "-S", OTHER) as other:
        in_the_middle(other.said)
    assert begins_at_the_beginning(other.said()) and without_a_model(project)
    assert len(list((project / ".descry/train").iterdir())) == 2
    assert goes_on(run(project, "dvc", "exp", "run", "-S", CHANGE))
    run(project, "git", "switch", "main")  # the killed command has left HEAD detached
    assert results(project) == left_alone


@pytest.mark.slow
def test_queue(project, left_alone):
    run(project, "dvc", "exp", "run", "--queue", "--name", "first", "-S", CHANGE)
    with started(project, "dvc", "queue", "start"):
        logs = ".dvc/tmp/exps/run/*/*.out"
        in_the_middle(lambda: "".join(path.read_text() for path in project.glob(logs)))
    assert without_a_model(project)
    run(project, "dvc", "queue", "kill", "first")  # which DVC takes for running still
    run(project, "dvc", "queue", "remove", "first")
    for copy in project.glob(".dvc/tmp/exps/tmp*"):
        shutil.rmtree(copy)
    run(project, "dvc", "exp", "run", "--queue", "--name", "again", "-S", CHANGE)
    with started(project, "dvc", "queue", "start"):
        while "Success" not in (status := run(project, "dvc", "queue", "status")):
            assert "Failed" not in status, run(project, "dvc", "queue", "logs", "again")
            time.sleep(1)
    assert goes_on(run(project, "dvc", "queue", "logs", "again"))
    run(project, "dvc", "exp", "apply", "again")
    assert results(project) == left_alone


@pytest.mark.slow
def test_temp(project, left_alone):
    with started(project, "dvc", "exp", "run", "--temp", "-S", CHANGE) as first:
        in_the_middle(first.said)
    assert without_a_model(project)
    said = run(project, "dvc", "exp", "run", "--temp", "--name", "again", "-S", CHANGE)
    assert goes_on(said)
    run(project, "dvc", "exp", "apply", "again")
    assert results(project) == left_alone


@pytest.mark.slow
def test_a_training_that_is_told_to_end_is_not_taken_for_complete(project):
    with started(project, "dvc", "repro") as first:
        in_the_middle(first.said)
        first.training().terminate()
        assert first.command.wait() != 0
    # The signal itself where the shell ($SHELL) has given its process to the command, as bash
    # does, and 128 + 15 where it waits for it, as dash does.
    assert re.search(r"exited with (-15|143)\b", first.said()) and without_a_model(project)
    assert "\n  train@rsna:" not in (project / "dvc.lock").read_text()


@pytest.mark.parametrize(
    ("scratch", "where"),
    [(".descry", "/repository/.descry"), ("/data/scratch", "/data/scratch")],
)
def test_scratch_is_outside_of_the_copies_that_dvc_makes(monkeypatch, scratch, where):
    params = load_params(overrides=[f"machine.scratch={scratch}", "machine.cache=auto"])
    monkeypatch.setenv("DVC_ROOT", "/repository")
    machine = train_machine(params, "cuda")
    assert machine.scratch == Path(where)
    assert machine.cache.folder == Path(where, "pictures")
    monkeypatch.delenv("DVC_ROOT")
    assert train_machine(params, "cuda").scratch == Path(scratch)
