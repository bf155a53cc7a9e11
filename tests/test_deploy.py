"""What docs/how-to/deploy.md offers beside exports: an archive that is watched, a container."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from dicom_factory import ROOT as ROOT_UID
from dicom_factory import write
from orthanc import PASSWORD, USER, orthanc
from predict_factory import spot

from pipeline.cli import app

ROOT = Path(__file__).parents[1]
MODEL = Path(__file__).parent / "formats/2.safetensors"
EXAMPLES = ROOT / "docs/examples"


@pytest.mark.slow
def test_an_orthanc_is_watched_and_gets_one_report_for_each_image(tmp_path):
    with orthanc(tmp_path) as server:

        def watch():
            command = [sys.executable, EXAMPLES / "orthanc_watch.py", server.root, "--checkpoint"]
            command += [MODEL, "-o", tmp_path / "results", "--once", "--device", "cpu"]
            credentials = {"DESCRY_DICOMWEB_USER": USER, "DESCRY_DICOMWEB_PASSWORD": PASSWORD}
            subprocess.run(command, check=True, env=os.environ | credentials, timeout=300)

        def stable():
            changes = server.get("/changes?limit=1000").json()["Changes"]
            return sum(change["ChangeType"] == "StableStudy" for change in changes)

        def wait_until_stable(times):
            for _ in range(150):
                if stable() == times:
                    return
                subprocess.run(["sleep", "0.2"], check=True)
            pytest.fail(f"Orthanc calls no study stable:\n{server.get('/changes').text}")

        for number in range(2):
            uid = f"{ROOT_UID}9.{number}"
            server.upload(write(tmp_path / f"{number}.dcm", spot(), SOPInstanceUID=uid))
        wait_until_stable(1)
        watch()
        assert len(server.held()) == 4  # two images, a report of each
        (results,) = (path for path in (tmp_path / "results").iterdir() if path.is_dir())
        assert results.name == ROOT_UID + "2"
        about = json.loads((results / "run.json").read_text())
        assert about["counts"]["processed"] == 2
        assert (results / "sent.csv").read_text().count("stored") == 2
        wait_until_stable(2)  # our own reports made it change
        before = (results / "run.json").stat().st_mtime_ns
        watch()
        assert (results / "run.json").stat().st_mtime_ns == before and len(server.held()) == 4


def test_the_container_copies_what_there_is_and_runs_a_command_there_is():
    text = (EXAMPLES / "Containerfile").read_text().replace("\\\n", " ")
    copied = [name for line in re.findall(r"^COPY (.*)", text, re.M) for name in line.split()[:-1]]
    assert len(copied) == 7 and all((ROOT / name).exists() for name in copied)
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)", text, re.M)[1])
    assert entry[0] == "descry"
    command = typer.main.get_command(app).commands[entry[1]]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    assert {word for word in entry if word.startswith("--")} <= options
    install = shlex.split(re.search(r"^RUN (pip install .*)", text, re.M)[1])
    assert install[-1] == ".[archive,onnx]"
