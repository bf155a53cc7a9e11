"""Archives, against a real Orthanc, and what needs none."""

import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest
from archive_factory import copying, upload
from dicom_factory import ROOT, image_dataset, save
from orthanc import PASSWORD, USER, free_port, orthanc
from predict_factory import BrightSpots, content, rows_of, spot
from pydicom import dcmread, uid
from typer.testing import CliRunner
from urllib3.util import Retry

from pipeline.archive import connection
from pipeline.archive.address import DimseAddress, parse_address
from pipeline.archive.query import Instance, parse_query
from pipeline.archive.transfer import Transfers, fetch_all, send_all
from pipeline.cli import app
from pipeline.errors import DescryError
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder

HERE = Options(workers=0, overlays="none")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def environment(**more):
    return {"DESCRY_DICOMWEB_USER": USER, "DESCRY_DICOMWEB_PASSWORD": PASSWORD, **more}


@pytest.fixture(params=["web", "dimse"])
def address(server, request):
    server.clear()
    return parse_address(getattr(server, request.param), environment())


def query(*texts):
    return parse_query(texts)


def test_from_and_to_an_archive(server, address, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    upload(server, tmp_path / "in")

    transfers = Transfers(address, query("StudyDate=20260101-20260131"), address, timeout=20)
    summary = predict_folder(
        transfers.fetch, tmp_path / "out", BrightSpots(), options=HERE, send=copying(transfers)
    )
    assert (summary.counts["files"], summary.counts["processed"]) == (3, 3)
    found = [(row["path"], row["x_px"]) for row in rows_of(tmp_path / "out" / "detections.csv")]
    study = f"{ROOT}2"
    assert found == [
        (f"{study}/{ROOT}3/{ROOT}9.1.dcm", "1.0"),
        (f"{study}/{ROOT}3/{ROOT}9.2.dcm", "2.0"),
        (f"{study}/{ROOT}4/{ROOT}9.3.dcm", "3.0"),
    ]
    assert not (tmp_path / "out" / "spool").exists()
    (sent,) = rows_of(tmp_path / "out" / "sent.csv")
    assert sent == {"path": "sc/result.dcm", "status": "stored", "message": ""}
    assert len(server.held()) == 5 and ROOT + "77.1" in server.held()
    written = {path: data for path, data in content(tmp_path / "out").items() if path[:3] != "sc/"}
    seen = caplog.text + "".join(capfd.readouterr()) + str(written)
    assert PASSWORD not in seen and "Wintergreen" not in seen


def test_objects_keep_their_transfer_syntax_and_are_fetched_once(server, address, tmp_path):
    upload(server, tmp_path / "in")
    transfers = Transfers(address, query("Modality=DX"), timeout=20)
    assert transfers.fetch(tmp_path / "spool") == {}
    syntaxes = {
        path.stem: dcmread(path).file_meta.TransferSyntaxUID
        for path in (tmp_path / "spool").rglob("*.dcm")
    }
    assert syntaxes == {
        ROOT + "9.1": uid.ExplicitVRLittleEndian,
        ROOT + "9.2": uid.RLELossless,
        ROOT + "9.3": uid.JPEGLSLossless,
    }
    for path in (tmp_path / "in").glob("[12].dcm"):
        ours = next((tmp_path / "spool").rglob(f"*9.{path.stem}.dcm"))
        assert dcmread(ours).PixelData == dcmread(path).PixelData
    (tmp_path / "spool" / "stale").write_bytes(b"of another query")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "spool").rglob("*.dcm")}
    gone = sorted(times)[0]
    gone.unlink()
    transfers.fetch(tmp_path / "spool")
    again = {p: p.stat().st_mtime_ns for p in (tmp_path / "spool").rglob("*") if p.is_file()}
    assert {p for p in again if again[p] == times[p]} == set(times) - {gone}
    assert list(transfers.matches()) == sorted(
        p.relative_to(tmp_path / "spool").as_posix() for p in again
    )


def test_wrong_credentials_and_silence_are_explained(server, tmp_path):
    wrong = parse_address(server.web, environment(DESCRY_DICOMWEB_PASSWORD="guess"))
    with pytest.raises(
        DescryError, match=r"does not let us in .HTTP 401.; set DESCRY_DICOMWEB_USER"
    ):
        Transfers(wrong, query("Modality=DX"), timeout=9).fetch(tmp_path)
    title = parse_address(server.dimse.replace("ORTHANC", "NOBODY"), {})
    with pytest.raises(DescryError, match="rejects us"):
        Transfers(title, query("Modality=DX"), timeout=9).fetch(tmp_path)
    with pytest.raises(DescryError, match="holds nothing that matches"):
        none = parse_address(server.web, environment())
        Transfers(none, query("StudyDate=19000101"), timeout=9).fetch(tmp_path)


class MemoryArchive:
    """An archive in memory."""

    def __init__(self, *uids, refuses=()):
        self.held = [Instance(ROOT + "1", ROOT + "2", uid) for uid in uids]
        self.refuses, self.fetched, self.sent = refuses, [], []

    def find(self, query):
        yield from self.held

    def fetch(self, instances, folder):
        for one in instances:
            self.fetched.append(one.uid)
            if one.uid not in self.refuses:
                (folder / one.path).parent.mkdir(parents=True, exist_ok=True)
                save(image_dataset(spot(), SOPInstanceUID=one.uid), folder / one.path)
            yield one, "status A702H" if one.uid in self.refuses else ""

    def send(self, paths):
        for path in paths:
            self.sent.append(path.name)
            yield path, "status 0110H" if path.name in self.refuses else ""


ANY = parse_query(["Modality=DX"])


def test_what_the_archive_does_not_give_is_accounted_for(tmp_path):
    archive = MemoryArchive("1.1", "1.2", "../../etc/passwd", refuses=("1.2",))
    summary = predict_folder(
        lambda folder: fetch_all(archive, ANY, folder, 2**30),
        tmp_path / "out",
        BrightSpots(),
        options=HERE,
    )
    assert (summary.counts["files"], summary.counts["failed"], summary.exit_code) == (3, 2, 1)
    failures = [tuple(row.values()) for row in rows_of(tmp_path / "out" / "failures.csv")]
    assert failures == [
        (f"{ROOT}1/{ROOT}2/1.2.dcm", "fetch", "not given by the archive", "status A702H"),
        ("object-3", "fetch", "not given by the archive",
         "the archive names it by something that is no UID"),
    ]  # fmt: skip


def test_the_folder_of_fetched_objects_is_bounded(tmp_path):
    with pytest.raises(DescryError, match=r"--spool-gib .*narrow the query"):
        fetch_all(MemoryArchive("1.1", "1.2", "1.3"), ANY, tmp_path, 5000)
    assert len(list(tmp_path.rglob("*.dcm"))) == 2  # of some 2.4 kB each, and the third unasked


def test_a_run_that_could_not_send_goes_on_from_there(tmp_path):
    archive, detector = MemoryArchive("1.1", "1.2"), BrightSpots()

    def run(send):
        return predict_folder(
            lambda folder: fetch_all(archive, ANY, folder, 2**30),
            tmp_path / "out",
            detector,
            options=HERE,
            send=send,
        )

    def down(folder):
        raise DescryError("the archive cannot be reached")

    with pytest.raises(DescryError, match="cannot be reached"):
        run(down)
    assert not (tmp_path / "out").exists()
    before = len(detector.calls)

    def refusing(folder):
        (folder / "sr").mkdir()
        for name in ("a.dcm", "b.dcm"):
            (folder / "sr" / name).write_bytes(b"")
        target = MemoryArchive(refuses=("b.dcm",))
        return send_all(target, folder, ("sr", "gsps"), folder / "sent.csv")

    assert run(refusing).exit_code == 1
    assert (len(detector.calls), archive.fetched) == (before, ["1.1", "1.2"])
    assert [tuple(row.values()) for row in rows_of(tmp_path / "out" / "sent.csv")] == [
        ("sr/a.dcm", "stored", ""), ("sr/b.dcm", "refused", "status 0110H"),
    ]  # fmt: skip


class Busy(BaseHTTPRequestHandler):
    """Answers 503 once, then that there is nothing."""

    asked: ClassVar[list] = []

    def do_GET(self):
        self.asked.append(self.headers.get("Authorization"))
        self.send_response(503 if len(self.asked) == 1 else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *arguments):
        pass


def test_a_busy_archive_is_asked_again(tmp_path):
    with HTTPServer(("127.0.0.1", 0), Busy) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{service.server_port}/web"
            address = parse_address(url, {"DESCRY_DICOMWEB_TOKEN": "cardamom"})
            with pytest.raises(DescryError, match="nothing that matches"):
                Transfers(address, ANY, timeout=9).fetch(tmp_path)
        finally:
            service.shutdown()
            thread.join()
    assert Busy.asked == ["Bearer cardamom"] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom's
@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/web", "dicom://A@127.0.0.1:{}"])
def test_an_archive_that_is_not_there(tmp_path, monkeypatch, url):
    monkeypatch.setattr(Retry, "sleep", lambda *arguments: None)
    monkeypatch.setattr(connection, "WAITS", (0, None))
    address = parse_address(url.format(free_port()), {})
    with pytest.raises(DescryError, match=r"attempts.*goes on where it stopped"):
        Transfers(address, ANY, timeout=3).fetch(tmp_path)


def test_addresses():
    web = parse_address("https://pacs.example/dicom-web/", environment())
    assert (web.url, web.user, web.password) == ("https://pacs.example/dicom-web", USER, PASSWORD)
    assert PASSWORD not in repr(web)
    assert parse_address("dicom://PACS@host:104", {"DESCRY_AE_TITLE": "ME"}) == DimseAddress(
        "PACS", "host", 104, "ME"
    )
    with pytest.raises(DescryError, match="no credentials in an address") as caught:
        parse_address("https://ada:cardamom@host/web", {})
    assert "cardamom" not in str(caught.value) and "ada" not in str(caught.value)
    secure = parse_address("dicoms://PACS@host:2762", {})
    assert secure == DimseAddress("PACS", "host", 2762) and secure.tls is not None
    for wrong in (
        "host",
        "dicom://host:104",
        "dicom://PACS@host",
        "ftp://host",
        "https://",
        "http://[",
    ):
        with pytest.raises(DescryError, match="the address of an archive is"):
            parse_address(wrong, {})


def test_queries():
    asked = parse_query(["Modality=CR", "StudyDate=20260101-20260131"])
    assert asked.study == (("StudyDate", "20260101-20260131"),)
    assert asked.series == (("Modality", "CR"),)
    for wrong in (["PatientName=Ada"], ["Modality"], ["Modality="], []):
        with pytest.raises(DescryError, match="KEY=VALUE"):
            parse_query(wrong)


@pytest.mark.parametrize(
    ("url", "missing"),
    [("https://pacs.example/web", "dicomweb_client"), ("dicom://PACS@host:104", "pynetdicom")],
)
@pytest.mark.parametrize("option", ["--from", "--to"])
def test_without_the_extra_it_says_how_to_get_it(monkeypatch, tmp_path, url, missing, option):
    """What has no archive in it needs neither library."""
    for name in [name for name in sys.modules if name.split(".")[0] in (missing, "requests")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    parse_query(["Modality=DX"])
    more = ["--query", "Modality=DX"] if option == "--from" else [str(tmp_path), "--sr"]
    command = ["predict", *more, option, url, "-o", "out", "--checkpoint", "none.pt"]
    said = CliRunner().invoke(app, command)
    assert isinstance(said.exception, DescryError)
    assert missing in str(said.exception)
    assert "python -m pip install 'descry[archive]'" in str(said.exception)
