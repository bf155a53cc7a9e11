"""A source image, what was found in it, and what the DICOM tools say of the objects written."""

import shutil
import subprocess

import pytest
from dicom_factory import ROOT, write
from predict_factory import spot

from pipeline.dicom.read.header import read_header
from pipeline.dicom.write.maker import Findings, Maker, Region
from pipeline.dicom.write.source import describe, wanted_elements

MARK = "Research use only. Not for diagnosis."
MAKER = Maker("1.2", "ab" * 32, "rsna", (("Lung Opacity", 0.25), ("glioma", 0.5)), MARK)
FOUND = Findings(
    (
        Region(0, (10.25, 2.5, 30.5, 20.07), "Lung Opacity", 0.97302),
        Region(0, (0.0, 0.0, 50.0, 40.0), "glioma", 0.5),
    )
)


def source(path, pixels=None, frames=None, *, copy=False, pseudonyms=None, **elements):
    """An image of 40 rows and 50 columns, as the writers see it."""
    write(path, spot() if pixels is None else pixels, frames, **elements)
    header = read_header(path, wanted_elements(copy, pseudonyms is not None))
    return describe(header, copy_patient=copy, pseudonyms=pseudonyms)


def program(name, package):
    """A program's path; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return found


def errors_of(path):
    """What dciodvfy holds to be errors: each breaks a rule of the standard."""
    tool = program("dciodvfy", "dicom3tools")
    said = subprocess.run([tool, "-new", path], capture_output=True, text=True, errors="replace")
    lines = (said.stdout + said.stderr).splitlines()
    assert any(not line.startswith(("Error", "Warning", "W:")) for line in lines), "no IOD found"
    return [line for line in lines if line.startswith(("Error", "E:"))]


__all__ = ["FOUND", "MAKER", "MARK", "ROOT", "errors_of", "program", "source"]
