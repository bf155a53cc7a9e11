"""A run that is interrupted, or meets a full disk, while files are still being read."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predict_factory import BrightSpots, content

from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder

pytestmark = pytest.mark.slow
# The command with a detector that takes its time, in a process and a session of its own.
PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
from predict_factory import BrightSpots
from pipeline.cli import main
from pipeline.models.saved import SavedModel

class Slow(BrightSpots):
    def prepare(self, *args, **named): pass
    def detect(self, images):
        time.sleep(0.05)
        return super().detect(images)

SavedModel.load = lambda *_: Slow()
main()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)
    for i in range(364):
        Image.fromarray(np.roll(noise, i)).save(folder / f"{i:03}.png", compress_level=1)
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "descry", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a small tmpfs, as root: {' '.join(mount)}: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def start(source, out):
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    words = ["predict", source, "-o", out, "--checkpoint", "model.safetensors", "--workers", "2"]
    command = [sys.executable, "-c", program, *map(str, words), "--device", "cpu"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def end_of(process):
    """Exit code and words; nothing of its session may be left."""
    try:
        _, said = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    for _ in range(100):  # Python's own helper process ends a moment after its parent
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return process.returncode, said
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError("processes are left behind")


def test_an_interrupted_run_ends_at_once_and_goes_on_to_the_same_bytes(source, tmp_path):
    out, journal = tmp_path / "out", tmp_path / "out.partial" / "state" / "journal"
    process = start(source, out)
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, said = end_of(process)
    assert (code, said) == (130, "interrupted; the same command again goes on from there\n")
    assert not out.exists() and journal.read_text().count("\n") < 364
    options = Options(workers=0, overlays="found")
    predict_folder(source, tmp_path / "whole", BrightSpots(), options=options)
    predict_folder(source, out, BrightSpots(), options=options)
    assert content(out) == content(tmp_path / "whole")


def test_a_full_disk_ends_the_run_with_a_word(source, small_disk, tmp_path):
    code, said = end_of(start(source, small_disk / "out"))
    assert code == 2
    assert said == (
        f"error: {small_disk}/out.partial: no space left to write (No space left on device). Free "
        "some and start the same command again: it goes on where it stopped\n"
    )
    assert [path.name for path in small_disk.iterdir()] == ["out.partial"]
