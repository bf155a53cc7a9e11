"""Nothing of ours speaks to the network unless it is asked to: neither imported nor at work."""

import subprocess
import sys
from pathlib import Path

import pytest
from dicom_factory import write
from predict_factory import spot, tiny_model

ROOT = Path(__file__).parents[2]
CUT = """
import socket
def refuse(*address, **_):
    raise AssertionError(f"the network was asked for {address[-1]}")
def connect(self, address, real=socket.socket.connect):
    return real(self, address) if self.family == socket.AF_UNIX else refuse(address)
socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = socket.gethostbyname = refuse
"""
IMPORT = """
import importlib, pkgutil, pipeline
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
RUN = "from pipeline.cli import main; main()"


def run(program, *words):
    command = [sys.executable, "-c", CUT + program, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_module_asks_for_the_network_when_it_is_imported():
    done = run(IMPORT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_prediction_does_without_the_network(tmp_path):
    write(tmp_path / "a.dcm", spot())
    tiny_model().save(tmp_path / "model.safetensors")
    done = run(RUN, "predict", tmp_path / "a.dcm", "-o", tmp_path / "out", "--sr",
               "--checkpoint", tmp_path / "model.safetensors", "--threshold", "0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out" / "sr").iterdir())


def test_the_cut_is_one():
    done = run("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')")
    assert "the network was asked for" in done.stderr
