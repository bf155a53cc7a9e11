import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from predict_factory import SPEC, tiny_model
from typer.testing import CliRunner

from pipeline import doctor
from pipeline.cli import app
from pipeline.dicom.read import probe
from pipeline.dicom.read.decoders import PLUGINS
from pipeline.models.build import build_detector
from pipeline.models.saved import SavedModel

BUILT = doctor._built
SEVEN = [[i, name] for i, name in enumerate("abcdefg", 1)]
WAY_OUT = (
    "--compile and train.compile need one; install g++ and Python's headers, or name another "
    "compiler in CXX"
)


@pytest.fixture(autouse=True)
def unbuilt(monkeypatch):
    """No library is built, which takes a second, but where that is the question."""
    monkeypatch.setattr(doctor, "_built", lambda folder: "g++")


def report(*arguments):
    """Exit code, and the checks by section and name."""
    result = CliRunner().invoke(app, ["doctor", "--json", *map(str, arguments)])
    told = json.loads(result.stdout)
    assert told["ok"] == (result.exit_code == 0)
    return result.exit_code, {(c["section"], c["name"]): c for c in told["checks"]}


@pytest.mark.parametrize("syntax", probe.SYNTAXES)
def test_every_transfer_syntax_is_really_decoded(syntax):
    assert probe.probe(syntax) == ""


def test_a_missing_decoder_is_named_and_fails(monkeypatch, tmp_path):
    assert report("-o", tmp_path)[0] == 0
    monkeypatch.setitem(PLUGINS, "1.2.840.10008.1.2.5", "no-such-plugin")
    code, checks = report("-o", tmp_path)
    found = checks["decoders", "RLE Lossless"]
    assert (code, found["status"]) == (1, "problem")
    assert "cannot decode: RLE Lossless (1.2.840.10008.1.2.5)" in found["text"]
    assert checks["decoders", "JPEG 2000"]["status"] == "ok"


def test_a_decoder_that_decodes_wrongly_fails(monkeypatch):
    monkeypatch.setattr(probe, "_expected", lambda sample: probe._ramp(sample) * 0)
    assert probe.probe("1.2.840.10008.1.2.1") == "wrong by 252 of 255 grey levels"


def test_a_checkpoint_is_loaded_and_described(tmp_path):
    tiny_model().save(tmp_path / "model.safetensors")
    code, checks = report(
        "--checkpoint", tmp_path / "model.safetensors", "-o", tmp_path / "not" / "yet"
    )
    text = checks["checkpoint", "model.safetensors"]["text"]
    assert code == 0
    assert text.startswith("vit micro, 64 px; spot, other; threshold 0.3; trained on toy; ")
    (tmp_path / "other.pt").write_bytes(b"no model")
    code, checks = report("--checkpoint", tmp_path / "other.pt")
    assert code == 1 and "not a readable checkpoint" in checks["checkpoint", "other.pt"]["text"]


def test_the_operating_points_of_classes_are_shown(tmp_path):
    model = tiny_model()
    model.meta["class_thresholds"] = {"spot": 0.25}
    model.save(tmp_path / "model.safetensors")
    text = report("--checkpoint", tmp_path / "model.safetensors")[1][
        "checkpoint", "model.safetensors"
    ]["text"]
    assert "; spot, other; threshold 0.3 (by class: spot 0.25, other 0.3); trained on" in text
    spec, meta = replace(SPEC, num_classes=7), {"categories": SEVEN, "class_thresholds": {"a": 0.2}}
    model = SavedModel(build_detector(spec), spec, model.meta | meta)
    model.save(tmp_path / "model.safetensors")
    text = report("--checkpoint", tmp_path / "model.safetensors")[1][
        "checkpoint", "model.safetensors"
    ]["text"]
    assert "; a, b, c, d, e and 2 more; threshold 0.3 (by class: a 0.2, b 0.3, c 0.3" in text


@pytest.fixture
def compiler(monkeypatch):
    """A function: what is said of a compiler."""
    monkeypatch.setattr(doctor, "_built", BUILT)

    def said(name):
        with torch._inductor.config.patch({"cpp.cxx": (None, str(name))}):  # as from $CXX
            check = report()[1]["device", "compiler"]
        return check["status"], check["text"]

    return said


def test_without_a_compiler_that_inductor_would_find_it_says_so(compiler):
    assert compiler("no-such-compiler") == ("note", f"no C++ compiler: {WAY_OUT}")


def test_a_compiler_that_does_not_compile_is_none(compiler, tmp_path):
    path = tmp_path / "c++"
    complaint = "probe.cpp:1:10: fatal error: Python.h: No such file or directory"
    path.write_text(f"#!/bin/sh\n[ $1 = --version ] && exit\necho '{complaint}' >&2\nexit 1\n")
    path.chmod(0o755)
    assert compiler(path) == ("note", f"no C++ compiler that works ({complaint}): {WAY_OUT}")
    path.write_text("#!/bin/sh\nexit 0\n")  # and writes nothing
    status, text = compiler(path)
    assert status == "note" and text.startswith("no C++ compiler that works (OSError: ")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++; install it")
def test_a_compiler_that_compiles_is_named(compiler):
    assert compiler("g++") == ("ok", "g++")


def test_a_full_disk_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    statuses = {check.name: check.status for check in doctor.examine(None, tmp_path)}
    assert statuses["results"] == "problem" and statuses["numpy"] == "ok"


def test_it_fits_one_screen(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    result = CliRunner().invoke(app, ["doctor", "--checkpoint", str(tmp_path / "gone.pt")])
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and len(lines) <= 40 and "1 needed thing is missing" in lines[-1]
    assert all(len(line) <= 100 for line in lines)
