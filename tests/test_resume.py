"""A run that is killed and started again ends with the bytes of one that was left alone."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train_factory import SPEC, changed, make_squares, run, same_bytes

from pipeline.data.index import CocoIndex
from pipeline.errors import DescryError
from pipeline.evaluate.operating_point import validate
from pipeline.train import checkpoint
from pipeline.train.checkpoint import (
    RunFolder,
    data_digest,
    identity,
    random_states,
    restore_random_states,
)
from pipeline.train.guards import naming_the_disk
from pipeline.train.module import TrainingModule
from pipeline.train.settings import Evaluator

FAMILIES = ("vit", "swin", "dat", "acmix_swin", "acmix_resnet", "glnet")
# with everything that has a state of its own: moving average, accumulation, dropped paths
FULL = changed(ema=0.9, accumulate=2, batch_size=1, keep="best")


SPLITS = ("train", "val")
ROOT = Path(__file__).parents[1]


class Killed(BaseException):
    """Ends a run on the spot; nothing in the pipeline catches it."""


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "coco", (("train", 6), ("val", 2)))


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    return make_squares(tmp_path_factory.mktemp("few") / "coco", (("train", 4), ("val", 1)))


@pytest.fixture(scope="module")
def left_alone(squares, tmp_path_factory) -> Path:
    return run(squares, tmp_path_factory.mktemp("left_alone"), settings=FULL)


@pytest.fixture
def kill(monkeypatch):
    """kill(place, nth): the nth time that a run comes to this place it dies there."""

    def arm(place: str, nth: int) -> Evaluator:
        left = nth

        def die_or(action):
            def wrapped(*args, **kwargs):
                nonlocal left
                left -= 1
                if left == 0:
                    if place == "writing":  # a part of the file is there already
                        args[1].write(b"half a checkpoint")
                    raise Killed(place)
                return action(*args, **kwargs)

            return wrapped

        monkeypatch.undo()
        if place == "step":
            step = die_or(TrainingModule.training_step)
            monkeypatch.setattr(TrainingModule, "training_step", step)
        if place == "writing":
            monkeypatch.setattr(checkpoint.torch, "save", die_or(torch.save))
        return die_or(validate) if place == "validation" else validate

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("place", "nth", "workers"),
    [("step", 4, 2), ("validation", 2, 0), ("writing", 3, 0)],
)
def test_killed_at_any_place_and_started_again(
    squares, left_alone, kill, tmp_path, place, nth, workers
):
    evaluator = kill(place, nth)
    with pytest.raises(Killed):
        run(squares, tmp_path, settings=FULL, evaluator=evaluator, workers=workers)
    kill("nowhere", 0)
    with counting_steps() as steps:
        run(squares, tmp_path, settings=FULL)
    assert 0 < steps.count < 12  # it did go on, and did not begin again
    assert same_bytes(left_alone, tmp_path) == []
    assert not list((tmp_path / "scratch/train").iterdir())


class counting_steps(pytest.MonkeyPatch):
    """Counts the training steps inside a with block."""

    count = 0

    def __enter__(self):
        step = TrainingModule.training_step

        def counted(*args):
            self.count += 1
            return step(*args)

        self.setattr(TrainingModule, "training_step", counted)
        return self

    def __exit__(self, *details):
        self.undo()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_backbone_with_acp_and_cat_repeats_and_resumes(few, kill, tmp_path, family):
    spec = replace(SPEC, backbone=family, drop_path=0.2)
    settings = changed(ema=0.9)  # 2 steps an epoch, 2 epochs
    first, again, killed = (tmp_path / name for name in ("first", "again", "killed"))
    run(few, first, spec, settings)
    run(few, again, spec, settings, workers=1)
    assert same_bytes(first, again) == []
    places = [("step", 2, 0), ("validation", 1, 2), ("writing", 2, 0)]
    for place, nth, workers in places:
        evaluator = kill(place, nth)
        with pytest.raises(Killed):
            run(few, killed, spec, settings, evaluator=evaluator, workers=workers)
    kill("nowhere", 0)
    run(few, killed, spec, settings)
    assert same_bytes(first, killed) == []


PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from train_factory import changed, run

coco, out, delay = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def end_at_once():
    start = time.time()
    while not any(p.stat().st_mtime > start for p in out.glob("scratch/train/*/checkpoint.pt")):
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)

if delay:
    threading.Thread(target=end_at_once, daemon=True).start()
run(coco, out, settings=changed(epochs=20), workers=1)
"""


@pytest.mark.slow
def test_kill_9_at_random_moments(squares, tmp_path):
    left_alone = run(squares, tmp_path / "left_alone", settings=changed(epochs=20))
    killed = tmp_path / "killed"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    env = os.environ | {"PYTHONPATH": path}
    draw = random.Random(0)
    for delay in (draw.random(), draw.random(), 0):  # seconds after its first checkpoint
        program = [sys.executable, "-c", PROGRAM, str(squares), str(killed), str(delay)]
        done = subprocess.run(program, env=env, capture_output=True, text=True)
        assert done.returncode == (-signal.SIGKILL if delay else 0), done.stderr
    assert same_bytes(left_alone, killed) == []


def test_a_checkpoint_of_another_configuration_data_or_code_is_not_found(
    squares, tmp_path, monkeypatch
):
    def splits(folder):
        return [CocoIndex(folder / f"annotations/{s}.json", folder / "images") for s in SPLITS]

    given = {"detector": {"concepts": 4}, "settings": {"lr": 0.1}}
    data = data_digest(splits(squares))
    known = {identity(given, data)}
    known.add(identity(given | {"settings": {"lr": 0.2}}, data))
    other = make_squares(tmp_path / "other", (("train", 6), ("val", 2)))
    assert data_digest(splits(other)) == data  # the place does not count
    picture = other / "images/val0.png"
    content = bytearray(picture.read_bytes())
    content[-20] ^= 1
    picture.write_bytes(content)
    known.add(identity(given, data_digest(splits(other))))
    monkeypatch.setattr(checkpoint, "code_digest", lambda *stage: "other code")
    known.add(identity(given, data))
    assert len(known) == 4


def test_another_run_in_the_same_scratch_begins_at_the_beginning(squares, kill, tmp_path):
    kill("step", 3)
    with pytest.raises(Killed):
        run(squares, tmp_path / "a", scratch=tmp_path / "scratch")
    kill("nowhere", 0)
    with counting_steps() as steps:
        run(
            squares,
            tmp_path / "b",
            settings=changed(seed=1),
            scratch=tmp_path / "scratch",
        )
    assert steps.count == 6
    assert len(list((tmp_path / "scratch/train").iterdir())) == 1  # the killed run's


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, "run")
    folder.save({"weights": torch.ones(1000)})

    class Full:
        """A file on a disk that has room for a little."""

        def __init__(self, stream) -> None:
            self.stream = stream

        def write(self, data) -> int:
            if self.stream.tell() > 500:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.stream.write(data)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Full(opened(self, *a, **k)))
    monkeypatch.setattr(Full, "__enter__", lambda self: self, raising=False)
    monkeypatch.setattr(Full, "__exit__", lambda self, *e: self.stream.close(), raising=False)
    with pytest.raises(DescryError, match=r"checkpoint\.pt: no space left.*about 4 MiB are needed"):
        folder.save({"weights": torch.zeros(2**20)})
    monkeypatch.undo()
    assert torch.equal(folder.load()["weights"], torch.ones(1000))
    assert [path.name for path in folder.path.iterdir()] == ["checkpoint.pt"]


def test_half_written_files_of_a_killed_run_are_cleared_away(tmp_path):
    folder = RunFolder(tmp_path, "run")
    folder.path.mkdir(parents=True)
    (folder.path / ".checkpoint.pt.123.tmp").write_bytes(b"half")
    with folder.claimed(tmp_path / "out", 0):
        assert [path.name for path in folder.path.iterdir()] == ["lock"]
        assert folder.load() is None


CLAIM = """
import sys
from pathlib import Path
from pipeline.train.checkpoint import RunFolder
with RunFolder(Path(sys.argv[1]), sys.argv[2]).claimed(Path(sys.argv[3]), 0):
    pass
"""


@pytest.mark.parametrize(
    ("run", "out", "words"),
    [
        ("same", "other", "another process is training this very configuration"),
        ("other", "same", "same: another process is training into this folder"),
        ("other", "other", ""),
    ],
)
def test_two_processes_train_neither_the_same_nor_into_the_same_folder(tmp_path, run, out, words):
    with RunFolder(tmp_path, "same").claimed(tmp_path / "outs/same", 0):
        command = [sys.executable, "-c", CLAIM, str(tmp_path), run, str(tmp_path / "outs" / out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert bool(done.returncode) is bool(words) and words in done.stderr


@pytest.fixture
def read_only(tmp_path):
    """A folder of a disk that takes no file."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root: run the tests as root to see this one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("place", ["out", "scratch"])
def test_a_disk_that_takes_no_file_is_named(squares, tmp_path, read_only, place):
    places = {"out": tmp_path / "out", "scratch": tmp_path / "scratch", place: read_only / "here"}
    with pytest.raises(DescryError, match=r"disk.*: Read-only file system"):
        run(squares, places["out"], scratch=places["scratch"])


def test_an_output_on_a_full_disk_is_named(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(DescryError, match="out: no space left to write"),
        naming_the_disk(tmp_path / "out"),
    ):
        raise full


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from train_factory import run
from pipeline.cli import app, main
from pipeline.train.module import TrainingModule

step = TrainingModule.training_step

def interrupted(module, batch, index):
    if index == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return step(module, batch, index)

TrainingModule.training_step = interrupted
coco, out = map(Path, sys.argv[1:])
sys.argv[1:] = ["toy"]
app.command("toy")(lambda: run(coco, out))
main()
"""


def test_ctrl_c_in_a_training_ends_with_130_and_words(squares, tmp_path):
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    command = [sys.executable, "-c", INTERRUPTED, str(squares), str(tmp_path / "out")]
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (130, False)
    assert "interrupted; the same command again goes on from there" in done.stderr


def test_a_malicious_or_broken_checkpoint_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was_run",)

    folder = RunFolder(tmp_path, "run")
    folder.path.mkdir(parents=True)
    torch.save({"progress": Evil()}, folder.checkpoint)
    with pytest.raises(DescryError, match=r"not readable.*remove .*run to train from the begin"):
        folder.load()
    folder.checkpoint.write_bytes(b"half a checkpoint")
    with pytest.raises(DescryError, match="not readable"):
        folder.load()
    assert not (tmp_path / "was_run").exists()


def test_every_random_generator_goes_on_where_it_was(tmp_path):
    def draws():
        return random.random(), random.gauss(0, 1), np.random.rand(), float(torch.rand(1))

    random.gauss(0, 1)  # python keeps a second value for next time
    torch.save(random_states(), tmp_path / "state.pt")
    first = draws()
    restore_random_states(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == first
