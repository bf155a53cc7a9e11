"""An Orthanc with authentication and no network, for one test session."""

import json
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

USER, PASSWORD = "reader", "cinnamon-4711"
PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc"))


@dataclass
class Orthanc:
    http: int
    dicom: int
    folder: Path

    @property
    def web(self):
        return f"http://127.0.0.1:{self.http}/dicom-web"

    @property
    def dimse(self):
        return f"dicom://ORTHANC@127.0.0.1:{self.dicom}"

    def get(self, path):
        answer = requests.get(
            f"http://127.0.0.1:{self.http}{path}", auth=(USER, PASSWORD), timeout=9
        )
        answer.raise_for_status()
        return answer

    def upload(self, path):
        answer = requests.post(
            f"http://127.0.0.1:{self.http}/instances",
            path.read_bytes(),
            auth=(USER, PASSWORD),
            timeout=9,
        )
        answer.raise_for_status()

    def clear(self):
        for one in self.get("/patients").json():
            url = f"http://127.0.0.1:{self.http}/patients/{one}"
            requests.delete(url, auth=(USER, PASSWORD), timeout=9).raise_for_status()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def orthanc(folder):
    """Start Orthanc in a folder; skip where Debian's packages are missing."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    plugin = [
        p for where in PLUGINS if where.is_dir() for p in where.rglob("libOrthancDicomWeb.so*")
    ]
    if program is None or not plugin:
        pytest.skip("needs Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
    here = Orthanc(free_port(), free_port(), folder)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": here.http,
        "DicomPort": here.dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowFind": True,
        "DicomModalities": {"descry": ["DESCRY", "127.0.0.1", 104]},
        "Plugins": [str(plugin[0])],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            _wait(here, process, folder)
            yield here
        finally:
            process.terminate()
            process.wait(20)


def _wait(here, process, folder):
    for _ in range(200):
        try:
            here.get("/system")
            return
        except requests.RequestException:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    pytest.fail("Orthanc did not start:\n" + (folder / "orthanc.log").read_text()[-2000:])
