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
HERE = ("localhost", "127.0.0.1")
PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc"))


@dataclass
class Orthanc:
    http: int
    dicom: int
    back: int  # port on this machine to which it sends what DESCRY asks for by C-MOVE
    folder: Path
    tls: bool = (
        False  # of DICOM only: Debian 12's Orthanc 1.10.1 crashes at the first https request
    )

    @property
    def root(self):
        return f"http://127.0.0.1:{self.http}"

    @property
    def web(self):
        return f"{self.root}/dicom-web"

    @property
    def dimse(self):
        return f"dicom{'s' if self.tls else ''}://ORTHANC@127.0.0.1:{self.dicom}"

    def get(self, path):
        return self._asked("GET", path)

    def upload(self, path):
        self._asked("POST", "/instances", path.read_bytes())

    def held(self):
        """SOP Instance UIDs of what it holds."""
        return [
            one["MainDicomTags"]["SOPInstanceUID"] for one in self.get("/instances?expand").json()
        ]

    def clear(self):
        for one in self.get("/patients").json():
            self._asked("DELETE", f"/patients/{one}")

    def _asked(self, method, path, data=None):
        answer = requests.request(
            method, self.root + path, data=data, auth=(USER, PASSWORD), timeout=9
        )
        answer.raise_for_status()
        return answer


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def orthanc(folder, authority=None):
    """Start Orthanc in a folder; skip where Debian's packages are missing.

    With an `authority` (certificate_factory), DICOM is over TLS and for its clients only.
    """
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    plugin = [
        p for where in PLUGINS if where.is_dir() for p in where.rglob("libOrthancDicomWeb.so*")
    ]
    if program is None or not plugin:
        pytest.skip("needs Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
    here = Orthanc(free_port(), free_port(), free_port(), folder, authority is not None)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": here.http,
        "DicomPort": here.dicom,
        "DicomAet": "ORTHANC",
        "StableAge": 1,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowFind": True,
        "DicomModalities": {
            "descry": {
                "AET": "DESCRY",
                "Host": "127.0.0.1",
                "Port": here.back,
                "UseDicomTls": here.tls,
            }
        },
        "Plugins": [str(plugin[0])],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    if authority is not None:
        own, key = map(str, authority.certificate("orthanc", HERE[1:]))
        settings |= {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": own,
            "DicomTlsPrivateKey": key,
            "DicomTlsTrustedCertificates": str(authority.ca),
            "DicomTlsRemoteCertificateRequired": True,
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
