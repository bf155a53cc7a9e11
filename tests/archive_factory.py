"""Small archives for tests, which a test makes odd by overriding one method."""

import contextlib
import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

import numpy as np
from dicom_factory import ROOT, image_dataset, save
from predict_factory import spot
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as FIND,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet as GET,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelMove as MOVE,
)

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
LEVELS = dict(zip(("STUDY", "SERIES", "IMAGE"), UIDS, strict=True))
TAGS = dict(zip(UIDS, ("0020000D", "0020000E", "00080018"), strict=True))
LITTLE = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)


def radiographs(number, side=8, syntax=uid.ExplicitVRLittleEndian):
    """Images of one series with the UIDs ROOT + "9.1" and so on."""
    found = []
    for n in range(1, number + 1):
        pixels = np.random.default_rng(n).integers(0, 256, (side, side), np.uint8)
        one = image_dataset(pixels, SOPInstanceUID=f"{ROOT}9.{n}")
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        if syntax.is_encapsulated:
            one.compress(syntax, generate_instance_uid=False)
        else:
            one.file_meta.TransferSyntaxUID = syntax
        found.append(one)
    return found


def upload(server, folder):
    """Three radiographs of one study, one of them compressed, and a CT of another."""
    folder.mkdir()
    for number, (series, syntax) in enumerate(
        (("3", uid.ExplicitVRLittleEndian), ("3", uid.RLELossless), ("4", uid.JPEGLSLossless)), 1
    ):
        dataset = image_dataset(spot(at=(number, 3, 6, 6)), InstanceNumber=number, PatientID="P1")
        dataset.SOPInstanceUID, dataset.SeriesInstanceUID = f"{ROOT}9.{number}", ROOT + series
        dataset.StudyDate, dataset.PatientName = "20260105", "Wintergreen^Ada"
        save(dataset, folder / f"{number}.dcm", syntax)
    other = image_dataset(spot(), Modality="CT", StudyInstanceUID=ROOT + "7", PatientID="P2")
    other.SOPClassUID, other.SOPInstanceUID = uid.CTImageStorage, ROOT + "9.9"
    other.SeriesInstanceUID, other.StudyDate = ROOT + "8", "20260205"
    save(other, folder / "ct.dcm")
    for path in folder.iterdir():
        server.upload(path)


def copying(transfers):
    """What a run with DICOM results does at its end, with a picture of its own as the result."""

    def results(folder):
        (folder / "sc").mkdir(exist_ok=True)
        picture = image_dataset(spot(), SOPInstanceUID=ROOT + "77.1")
        save(picture, folder / "sc" / "result.dcm")
        return transfers.send(folder)

    return results


def encoded(dataset):
    """A dataset as a file, in bytes."""
    stream = BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


class Pacs:
    """A DIMSE archive.

    Attributes
    ----------
    places : dict
        AE titles and ports that it sends to by C-MOVE.
    tls : SSLContext or None
        What it connects to them with.
    """

    storage = (uid.DigitalXRayImageStorageForPresentation,)
    syntaxes = (*LITTLE, uid.RLELossless)
    services = (FIND, GET, MOVE)
    most = 10  # associations at once
    tls = None

    def __init__(self, *held, places=()):
        self.held, self.stored, self.gets, self.moves = held, [], [], []
        self.places = dict(places)

    def matching(self, keys):
        return [d for d in self.held if all(keys.get(u) in ("", None, d[u].value) for u in UIDS)]

    def find(self, event):
        key = LEVELS[event.identifier.QueryRetrieveLevel]
        for value in dict.fromkeys(one[key].value for one in self.matching(event.identifier)):
            answer = Dataset()
            setattr(answer, key, value)
            if key == "SOPInstanceUID":
                answer.SOPClassUID = self.storage[0]
            yield 0xFF00, answer

    def get(self, event):
        found = self.matching(event.identifier)
        self.gets.append([one.SOPInstanceUID for one in found])
        yield len(found)
        for one in found:
            yield 0xFF00, one

    def move(self, event):
        found = self.matching(event.identifier)
        self.moves.append([one.SOPInstanceUID for one in found])
        yield from self.place(event.move_destination)
        yield len(found)
        for one in found:
            yield 0xFF00, one

    def place(self, title):
        """Where pynetdicom is to send to, and how."""
        if title not in self.places:
            yield None, None
            return
        contexts = [build_context(one, [two]) for one in self.storage for two in self.syntaxes]
        tls = None if self.tls is None else (self.tls, "127.0.0.1")
        yield "127.0.0.1", self.places[title], {"contexts": contexts, "tls_args": tls}

    def store(self, event):
        self.stored.append(event.dataset)
        return 0x0000


@contextmanager
def listening(pacs, tls=None):
    """The address of a DIMSE archive."""
    entity = AE("PACS")
    entity.maximum_associations = pacs.most
    for service in pacs.services:
        entity.add_supported_context(service)
    for kind in pacs.storage:
        entity.add_supported_context(kind, list(pacs.syntaxes), scu_role=True, scp_role=True)
    handlers = [
        (evt.EVT_C_FIND, pacs.find),
        (evt.EVT_C_GET, pacs.get),
        (evt.EVT_C_MOVE, pacs.move),
        (evt.EVT_C_STORE, pacs.store),
    ]
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls
    )
    try:
        yield f"dicom{'s' if tls else ''}://PACS@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


class Web:
    """A DICOMweb service."""

    page = 10_000

    def __init__(self, *held):
        self.held, self.stored, self.requests = held, [], []

    def answer(self, method, url, headers, body):
        """Status, headers and body of an answer."""
        self.requests.append((method, url, dict(headers), body))
        parts = urlsplit(url)
        keys = {key: values[0] for key, values in parse_qs(parts.query).items()}
        where = parts.path.removeprefix("/web/").split("/")
        if method == "POST":
            return self.store(body)
        if len(where) == 6:
            return self.retrieve(where[5], headers)
        return self.search(UIDS[len(where) // 2], where[1::2], keys)

    def search(self, key, within, keys):
        found = [d for d in self.held if [d[u].value for u in UIDS[: len(within)]] == within]
        values = list(dict.fromkeys(one[key].value for one in found))
        start = int(keys.get("offset", 0))
        return self.listed(key, values[start : start + min(int(keys["limit"]), self.page)])

    def listed(self, key, values):
        answer = [{TAGS[key]: {"vr": "UI", "Value": [value]}} for value in values]
        return 200, {"Content-Type": "application/dicom+json"}, json.dumps(answer).encode()

    def retrieve(self, name, headers):
        (one,) = (one for one in self.held if one.SOPInstanceUID == name)
        return multipart(encoded(one))

    def store(self, body):
        start = body.index(b"\r\n\r\n") + 4
        one = dcmread(BytesIO(body[start : body.rindex(b"\r\n--")]))
        self.stored.append(one)
        return receipt(200, stored=[one.SOPInstanceUID])


def multipart(body, closing=b"\r\n--cut--\r\n", part=b"Content-Type: application/dicom\r\n"):
    """A WADO-RS answer."""
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=cut'}
    return 200, headers, b"\r\n--cut\r\n" + part + b"\r\n" + body + closing


def receipt(status, stored=(), failed=(), kind="application/dicom+json"):
    """A STOW-RS answer (PS3.18 10.5.3): UIDs that are stored, and (UID, reason) that are not."""
    answer = Dataset()
    for keyword, rows in (
        ("ReferencedSOPSequence", [(one, None) for one in stored]),
        ("FailedSOPSequence", failed),
    ):
        items = []
        for name, reason in rows:
            item = Dataset()
            item.ReferencedSOPInstanceUID = name
            if reason is not None:
                item.FailureReason = reason
            items.append(item)
        if items:
            setattr(answer, keyword, Sequence(items))
    return status, {"Content-Type": kind}, json.dumps(answer.to_json_dict()).encode()


@contextmanager
def answering(web, tls=None):
    """The address of a DICOMweb service."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self):
            with contextlib.suppress(OSError):  # the other side may go away
                super().handle_one_request()

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, data = web.answer(self.command, self.path, self.headers, body)
            self.send_response(status)
            for name, value in {"Content-Length": len(data), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = "Content-Length" in headers  # which is then a wrong one

        do_POST = do_GET  # the name is the base class's

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/web"
        finally:
            server.shutdown()
            thread.join()


class Tap:
    """A line to an archive that breaks, falls silent or is slow.

    Attributes
    ----------
    cuts : list of int
        Bytes that the archive may say on each connection; later ones are whole.
    silent : bool
        At the cut the line stays open.
    pause : float
        Seconds before each 16 KiB of the archive.
    calls : bool
        It is the archive that connects.
    """

    def __init__(self, cuts=(), silent=False, pause=0.0, calls=False):
        self.cuts, self.silent, self.pause, self.calls = list(cuts), silent, pause, calls
        self.connections, self.threads, self.ends = 0, [], []
        self.closing = threading.Event()

    @contextmanager
    def before(self, url):
        """The address of the line to the archive at `url`."""
        parts = urlsplit(url)
        with socket.create_server(("127.0.0.1", 0)) as entrance:
            port = entrance.getsockname()[1]
            self._start(self._accept, entrance, (parts.hostname, parts.port))
            try:
                yield url.replace(f":{parts.port}", f":{port}")
            finally:
                self.closing.set()
                for end in (entrance, *self.ends):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                for thread in self.threads:
                    thread.join(5)

    def _start(self, target, *arguments):
        thread = threading.Thread(target=target, args=arguments)
        self.threads.append(thread)
        thread.start()

    def _accept(self, entrance, place):
        while True:
            try:
                near, _ = entrance.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(place)
            self.ends += near, far
            allowed = self.cuts.pop(0) if self.cuts else None
            archive, we = (near, far) if self.calls else (far, near)
            self._start(self._ours, we, archive)
            self._start(self._theirs, archive, we, allowed)

    def _ours(self, we, archive):
        with contextlib.suppress(OSError):
            while data := we.recv(65536):
                archive.sendall(data)
            archive.shutdown(socket.SHUT_WR)

    def _theirs(self, archive, we, allowed):
        with archive, we, contextlib.suppress(OSError):
            while data := archive.recv(16384):
                time.sleep(self.pause)
                if allowed is not None and len(data) >= allowed:
                    we.sendall(data[:allowed])
                    if self.silent:
                        self.closing.wait(60)
                    we.shutdown(socket.SHUT_RDWR)
                    return
                we.sendall(data)
                allowed = None if allowed is None else allowed - len(data)
            we.shutdown(socket.SHUT_RDWR)
