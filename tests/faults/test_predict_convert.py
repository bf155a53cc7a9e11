"""`predict` and `convert` with many files on their way: stopped, on small disks, twice at once."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predict_factory import tiny_model

ROOT = Path(__file__).parents[2]
IMAGES = 240
# `descry` with a detector that needs no model file and takes its time.
PROGRAM = """
import sys, time
from types import SimpleNamespace
sys.path.insert(0, {tests!r})
from predict_factory import BrightSpots
from pipeline.cli import main
from pipeline.models.saved import SavedModel

class Slow(BrightSpots):
    spec = SimpleNamespace(task="detect")
    def prepare(self, *args, **named): pass
    def detect(self, images):
        time.sleep(0.02)
        return super().detect(images)

SavedModel.load = lambda *_: Slow()
main()
"""
ENDED_BY_US = {
    "INT": (130, "interrupted; the same command again goes on from there\n"),
    "TERM": (-signal.SIGTERM, ""),
    "KILL": (-signal.SIGKILL, ""),
}


@dataclass(frozen=True)
class Command:
    """A command and how to see that it is in the middle of its work."""

    words: tuple[str, ...]
    source: Path

    def start(self, out: Path, **environment: str) -> subprocess.Popen:
        program = [sys.executable, "-c", PROGRAM.format(tests=str(ROOT / "tests"))]
        words = [word.format(out=out, source=self.source) for word in self.words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.Popen(
            [*program, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True, env=environment, cwd=ROOT,
        )  # fmt: skip

    def run(self, out: Path, **environment: str) -> tuple[int, str]:
        return end_of(self.start(out, **environment))


def end_of(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and words; nothing of its session may be left."""
    try:
        _, said = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    for _ in range(300):  # Python's own helper process ends a moment after its parent
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return process.returncode, said
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError("processes are left behind")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    raw, pictures = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 255, (150, 150), np.uint8)
    (raw / "images").mkdir()
    (raw / "labels").mkdir()
    for i in range(IMAGES):
        picture = Image.fromarray(np.roll(noise, i))
        picture.save(pictures / f"{i:03}.png", compress_level=1)
        picture.save(raw / "images" / f"{i:03}.bmp")
        (raw / "labels" / f"{i:03}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (raw / "classes.txt").write_text("cell\n")
    model = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny_model().save(model)  # it must be there; what detects is `PROGRAM`'s
    predict = ("predict", "{source}", "-o", "{out}", "--checkpoint", str(model), "--workers", "2",
               "--device", "cpu")  # fmt: skip
    convert = ("convert", "ccellbio", "--raw", "{source}", "--out", "{out}",
               "-S", "machine.workers=2")  # fmt: skip
    return {"predict": Command(predict, pictures), "convert": Command(convert, raw)}


@pytest.fixture(scope="module")
def undisturbed(commands, tmp_path_factory):
    """The output of each command, made when first asked for."""
    made: dict[str, Path] = {}

    def of(name):
        if name not in made:
            out = tmp_path_factory.mktemp("whole") / "out"
            code, said = commands[name].run(out)
            assert code == 0, said
            made[name] = out
        return content(made[name])

    return of


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in files if p.name != "timing.json"
    }


@contextlib.contextmanager
def small_disk(folder: Path, options: str):
    """A file system of its own in memory."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "descry", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a small tmpfs, as root: {' '.join(mount)}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def journal_lines(out: Path) -> int:
    journal = out.with_name(out.name + ".partial") / "state" / "journal"
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


CELLS = [(name, fault) for name in ("predict", "convert") for fault in ENDED_BY_US]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), CELLS)
def test_stopped_at_any_moment(commands, undisturbed, tmp_path, name, fault):
    out, command = tmp_path / "out", commands[name]
    moment = int(np.random.default_rng(CELLS.index((name, fault))).integers(1, IMAGES // 2))
    process = command.start(out)
    while process.poll() is None and journal_lines(out) < moment:
        time.sleep(0.01)
    process.send_signal(getattr(signal, f"SIG{fault}"))
    code, said = end_of(process)
    assert (code, said.replace("\r", "")[-len(ENDED_BY_US[fault][1]) :]) == ENDED_BY_US[fault]
    assert not out.exists() and 0 < journal_lines(out) < IMAGES
    code, said = command.run(out)
    assert code == 0, said
    assert content(out) == undisturbed(name)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "convert"])
def test_full_disk(commands, tmp_path, name):
    with small_disk(tmp_path / "disk", "size=400k") as disk:
        code, said = commands[name].run(disk / "out")
        assert code == 2, said
        assert f"{disk}/out.partial" in said and "no space left to write" in said
        assert "goes on where it stopped" in said and "Traceback" not in said
        assert {path.name for path in disk.iterdir()} == {"out.partial"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "convert"])
def test_read_only_disk(commands, tmp_path, name):
    with small_disk(tmp_path / "disk", "size=400k,ro") as disk:
        code, said = commands[name].run(disk / "out")
        assert code == 2, said
        assert "Read-only file system" in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "convert"])
def test_a_worker_is_ended_from_outside(commands, undisturbed, tmp_path, name):
    out, command = tmp_path / "out", commands[name]
    process = command.start(out)
    while process.poll() is None and journal_lines(out) < 5:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victims = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(int(victims[0]), signal.SIGTERM)
    code, said = end_of(process)
    assert code == 2, said
    assert "a worker process was ended from outside; start again to go on" in said
    assert command.run(out)[0] == 0
    assert content(out) == undisturbed(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "convert"])
def test_two_at_once(commands, undisturbed, tmp_path, name):
    out, command = tmp_path / "out", commands[name]
    first = command.start(out)
    while first.poll() is None and journal_lines(out) < 1:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # else it is done before the second has started
    code, said = command.run(out)
    first.send_signal(signal.SIGCONT)
    assert code == 2 and "another run is writing there" in said
    assert end_of(first)[0] == 0
    assert content(out) == undisturbed(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "convert"])
def test_no_home_and_a_plain_locale(commands, undisturbed, tmp_path, name):
    code, said = commands[name].run(tmp_path / "out", HOME="/nonexistent", LC_ALL="C")
    assert code == 0, said
    assert content(tmp_path / "out") == undisturbed(name)
