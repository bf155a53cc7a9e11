"""C-MOVE: the archive connects to us."""

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import groupby
from socketserver import BaseServer

import pytest
from archive_factory import ROOT, Pacs, Tap, listening, radiographs, upload
from orthanc import free_port, orthanc
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as FIND,
)
from pynetdicom.sop_class import Verification
from typer.testing import CliRunner

from pipeline.archive import connection
from pipeline.archive.address import parse_address
from pipeline.archive.connection import IdleTimeout
from pipeline.archive.query import Instance, parse_query
from pipeline.archive.storage import StorageServer, StoreHandler
from pipeline.archive.tls import client_context
from pipeline.archive.transfer import Transfers
from pipeline.cli import app
from pipeline.errors import DescryError

# pynetdicom leaves sockets and threads to the collector when a connection is cut.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ANY = parse_query(["Modality=DX"])
STUDY, SERIES = f"{ROOT}2", f"{ROOT}3"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(connection, "WAITS", (0.1, 0.1, 0.1, None))
    # Seconds after which a server notices that it is to end.
    monkeypatch.setattr(BaseServer.serve_forever, "__defaults__", (0.02,))


@pytest.fixture
def port():
    return free_port()


def fetched(url, folder, port, timeout=5.0, environment=None, limit=2**30):
    """What is lost, and the contents of the files that arrived."""
    address = parse_address(url, environment or {}, port)
    lost = Transfers(address, ANY, timeout=timeout, limit=limit).fetch(folder)
    return lost, {path.stem: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(*numbers):
    return [f"{ROOT}9.{number}" for number in numbers]


def path_of(number):
    return f"{STUDY}/{SERIES}/{ROOT}9.{number}.dcm"


def is_open(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.DeflatedExplicitVRLittleEndian]
)
def test_objects_are_what_c_get_brings(tmp_path, port, syntax):
    class Single(Pacs):
        syntaxes = (syntax,)

    pacs = Single(*radiographs(3, syntax=syntax), places={"DESCRY": port})
    with listening(pacs) as url:
        lost, moved = fetched(url, tmp_path / "move", port)
        assert (lost, moved) == fetched(url, tmp_path / "get", None)
    assert lost == {} and sorted(moved) == names(1, 2, 3)
    assert [len(asked) for asked in pacs.moves] == [1, 1, 1]
    assert dcmread(tmp_path / "move" / path_of(2)).file_meta.TransferSyntaxUID == syntax
    assert not is_open(port)


@pytest.mark.parametrize("named", ["1.2.840.10008.5.1.4.1.1.6", ""])
def test_objects_of_a_retired_class_or_of_one_that_is_not_named(tmp_path, port, named):
    """Ultrasound of the standard of 1993 (PS3.6 A)."""

    class Old(Pacs):
        def find(self, event):
            for status, answer in super().find(event):
                answer.SOPClassUID = named
                yield status, answer

    pacs = Old(*radiographs(1), places={"DESCRY": port})
    if named:
        pacs.storage = (named,)
        pacs.held[0].SOPClassUID = pacs.held[0].file_meta.MediaStorageSOPClassUID = named
    with listening(pacs) as url:
        lost, moved = fetched(url, tmp_path, port)
    assert (lost, list(moved)) == ({}, names(1))


def test_a_run_that_goes_on_asks_for_what_is_not_there(tmp_path, port):
    pacs = Pacs(*radiographs(3), places={"DESCRY": port})
    with listening(pacs) as url:
        fetched(url, tmp_path, port)
        (tmp_path / path_of(2)).unlink()
        pacs.moves.clear()
        assert sorted(fetched(url, tmp_path, port)[1]) == names(1, 2, 3)
        assert pacs.moves == [names(2)]


def test_an_archive_that_does_not_know_us(tmp_path, port):
    pacs = Pacs(*radiographs(3))
    said = rf"status A801H, but nothing .* AE title DESCRY as host 127.0.0.1 .*, port {port}; the"
    with listening(pacs) as url, pytest.raises(DescryError, match=said):
        fetched(url, tmp_path, port)
    assert len(pacs.moves) == 1
    assert not is_open(port)


def test_an_archive_that_takes_another_place_for_ours(tmp_path, port):
    class Elsewhere(Pacs):
        def move(self, event):
            _send_final(event, 0x0000)
            yield from super().move(event)

    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        listening(Elsewhere(*radiographs(3), places={"DESCRY": other.getsockname()[1]})) as url,
        pytest.raises(
            DescryError, match=f"has sent an object, but nothing has come to port {port}"
        ),
    ):
        fetched(url, tmp_path, port, timeout=1.0)


def _send_final(event, status):
    """Answer before pynetdicom does."""
    answer = C_MOVE()
    answer.MessageID = answer.MessageIDBeingRespondedTo = event.request.MessageID
    answer.AffectedSOPClassUID, answer.Status = event.request.AffectedSOPClassUID, status
    answer.NumberOfCompletedSuboperations = 1
    event.assoc.dimse.send_msg(answer, event.context.context_id)


def test_objects_that_fail_with_the_others_around_them(tmp_path, port):
    class Partly(Pacs):
        def move(self, event):
            wanted = event.identifier.SOPInstanceUID
            if wanted.endswith(("9.1", "9.4")):
                yield from super().move(event)
            if wanted.endswith("9.1"):
                yield 0xA702, Dataset()  # it complains of what it has delivered
            if wanted.endswith("9.2"):
                yield from self.place(event.move_destination)
                yield 1
                failed = Dataset()
                failed.FailedSOPInstanceUIDList = [wanted]
                yield 0xB000, failed
            if wanted.endswith("9.3"):  # it no longer has it
                yield from self.place(event.move_destination)
                yield 0
            if wanted.endswith("9.5"):  # somebody there has cancelled it
                yield from self.place(event.move_destination)
                yield 1
                yield 0xFE00, Dataset()

    with listening(Partly(*radiographs(5), places={"DESCRY": port})) as url:
        lost, moved = fetched(url, tmp_path, port)
    assert sorted(moved) == names(1, 4)
    assert lost == {
        path_of(2): "not given (status B000H)",
        path_of(3): "not given (status 0000H)",
        path_of(5): "not given (status FE00H)",
    }


def test_an_archive_that_has_its_last_word_before_it_delivers(tmp_path, port):
    """And pending answers after it. The line to us is slow: 5 pieces, 0.05 s apart."""

    class Hasty(Pacs):
        def move(self, event):
            _send_final(event, 0x0000)
            yield from super().move(event)

    tap = Tap(pause=0.05, calls=True)
    with tap.before(f"dicom://DESCRY@127.0.0.1:{port}") as way:
        pacs = Hasty(*radiographs(2, side=250), places={"DESCRY": parse_address(way, {}).port})
        with listening(pacs) as url:
            lost, moved = fetched(url, tmp_path, port, timeout=1.0)
    assert (lost, sorted(moved)) == ({}, names(1, 2))
    assert [len(asked) for asked in pacs.moves] == [1, 1]


def test_an_archive_that_never_has_a_last_word(tmp_path, port):
    """What it has delivered counts; at the second object without an answer the run stops."""
    over = threading.Event()

    class Endless(Pacs):
        def move(self, event):
            if event.identifier.SOPInstanceUID.endswith("9.1"):
                yield from super().move(event)
            else:
                self.moves.append([event.identifier.SOPInstanceUID])
            over.wait(60)
            event.assoc.abort()

    pacs = Endless(*radiographs(4), places={"DESCRY": port})
    with listening(pacs) as url:
        try:
            with pytest.raises(DescryError, match="again and again; the same command goes on"):
                fetched(url, tmp_path, port, timeout=0.3)
        finally:
            over.set()
    assert [path.stem for path in tmp_path.rglob("*.dcm")] == names(1)
    # An attempt whose association a busy machine does not open in time asks for nothing.
    asked = [(name, len(list(times))) for (name,), times in groupby(pacs.moves)]
    assert [name for name, _ in asked] == names(1, 2, 3)
    assert all(times <= most for (_, times), most in zip(asked, (1, 4, 4), strict=True))
    assert not is_open(port)


@pytest.mark.parametrize(("calls", "cuts"), [(False, (10**6, 350)), (True, (60_000, 9_000))])
def test_a_line_that_breaks_in_the_middle(tmp_path, port, calls, cuts):
    """The one on which we ask, and the one on which objects come: each arrives whole."""
    pacs, tap = Pacs(*radiographs(3, side=200)), Tap(cuts=cuts, calls=calls)
    ours = f"dicom://DESCRY@127.0.0.1:{port}"
    with listening(pacs) as url, tap.before(ours if calls else url) as way:
        pacs.places["DESCRY"] = parse_address(way, {}).port if calls else port
        lost, moved = fetched(url if calls else way, tmp_path, port)
    assert (lost, sorted(moved)) == ({}, names(1, 2, 3))
    for one in pacs.held:
        assert dcmread(tmp_path / path_of(one.SOPInstanceUID[-1])).PixelData == one.PixelData
    assert tap.connections > len(cuts)


def test_a_slow_object_is_not_silence(tmp_path, port):
    """40 pieces, 0.05 s apart: 2 s in all, and never 1 s without a byte, but one without a word."""
    tap = Tap(pause=0.05, calls=True)
    with tap.before(f"dicom://DESCRY@127.0.0.1:{port}") as way:
        pacs = Pacs(*radiographs(1, side=800), places={"DESCRY": parse_address(way, {}).port})
        with listening(pacs) as url:
            lost, moved = fetched(url, tmp_path, port, timeout=1.0)
    assert (lost, list(moved)) == ({}, names(1))
    assert tap.connections == len(pacs.moves) == 1


@pytest.fixture
def receiver(tmp_path, port):
    """It wants the first two radiographs."""
    address = parse_address(f"dicom://PACS@127.0.0.1:{port}", {}, port)
    wanted = [Instance(STUDY, SERIES, name, Pacs.storage[0]) for name in names(1, 2)]
    handler, idle = StoreHandler(tmp_path, wanted), IdleTimeout(5.0)
    with StorageServer(address, 5.0, handler, Pacs.storage, idle) as running:
        yield running


@contextmanager
def connected(port, title="DESCRY", kinds=(*Pacs.storage, Verification)):
    """An association with us."""
    entity = AE()
    for kind in kinds:
        entity.add_requested_context(kind)
    association = entity.associate("127.0.0.1", port, ae_title=title)
    yield association
    association.release()


def test_whom_and_what_the_receiver_takes(receiver, port, tmp_path):
    one, two, unasked = radiographs(3)
    elsewhere = radiographs(1)[0]
    elsewhere.StudyInstanceUID = ROOT + "77"
    with connected(port, kinds=(uid.CTImageStorage,)) as nothing:
        assert not nothing.is_established
    with connected(port, "OTHER") as wrong:
        assert wrong.is_rejected
    with connected(port) as right:
        assert right.send_c_echo().Status == 0x0000
        said = [right.send_c_store(each).Status for each in (one, unasked, elsewhere, one, two)]
    assert said == [0x0000, 0xC000, 0xC000, 0x0000, 0x0000]
    assert sorted(path.stem for path in tmp_path.rglob("*") if path.is_file()) == names(1, 2)
    with ExitStack() as stack:
        several = [stack.enter_context(connected(port)) for _ in range(6)]
        assert [one.is_established for one in several] == [True] * 5 + [False]


def test_what_is_given_up_does_not_come_late(receiver, port, tmp_path):
    late, other = radiographs(2)
    instance = Instance(STUDY, SERIES, late.SOPInstanceUID)
    assert receiver.handler.settle(instance, "why") == "why"
    with connected(port) as right:
        assert [right.send_c_store(each).Status for each in (late, other)] == [0xC000, 0x0000]
    assert [path.stem for path in tmp_path.rglob("*.dcm")] == names(2)


def test_what_nobody_asked_for_is_neither_kept_nor_quoted(tmp_path, port, caplog, recwarn):
    stranger = radiographs(3)[2]
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        stranger.StudyInstanceUID = "Wintergreen^Ada"
    caplog.clear()
    recwarn.clear()

    class Generous(Pacs):
        def move(self, event):
            _send_final(event, 0x0000)
            yield from self.place(event.move_destination)
            yield 3
            for one in (stranger, *self.held):
                yield 0xFF00, one

    pacs = Generous(*radiographs(2), places={"DESCRY": port})
    with listening(pacs) as url, caplog.at_level(logging.DEBUG):
        lost, moved = fetched(url, tmp_path, port, timeout=1.0)
    assert (lost, sorted(moved)) == ({}, names(1, 2))
    said = caplog.text + "".join(str(one.message) for one in recwarn)
    assert "Wintergreen" not in said


def test_an_object_that_comes_twice_at_once_is_whole(receiver, port, tmp_path):
    """As when a line breaks and the archive goes on with what is asked for again."""
    one = radiographs(1, side=1000)[0]
    with ExitStack() as stack:
        lines = [stack.enter_context(connected(port)) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(
                lambda line: [line.send_c_store(one).Status for _ in range(3)], lines
            )
            assert list(answers) == [[0x0000] * 3] * 4
    assert dcmread(tmp_path / path_of(1)).PixelData == one.PixelData
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{names(1)[0]}.dcm"]


def test_strangers_do_not_keep_a_run_alive(tmp_path, port):
    """One says nothing; another sends C-ECHO all the time, as those do who look after machines."""
    over, echoes = threading.Event(), []

    class Silent(Pacs):
        def move(self, event):
            yield from ()
            with connected(port, kinds=(Verification,)) as other:
                while not over.wait(0.05):
                    echoes.append(other.send_c_echo().get("Status"))

    pacs = Silent(*radiographs(1))
    with listening(pacs) as url, socket.socket() as mute:
        thread = threading.Thread(target=lambda: _connect(mute, port))
        thread.start()
        try:
            lost, _ = fetched(url, tmp_path, port, timeout=0.5)
        finally:
            over.set()
            thread.join()
    assert lost == {path_of(1): "the connection breaks at this object, 4 attempts"}
    assert echoes.count(0x0000) > 10


def _connect(one, port):
    while one.connect_ex(("127.0.0.1", port)) != 0:
        pass


def test_the_port_closes_when_a_run_stops(tmp_path, port):
    pacs = Pacs(*radiographs(2), places={"DESCRY": port})
    with listening(pacs) as url, pytest.raises(DescryError, match="--spool-gib"):
        try:
            fetched(url, tmp_path, port, limit=10)
        finally:
            assert len(pacs.moves) == 1 and not is_open(port)


def test_a_port_that_is_taken(tmp_path):
    pacs = Pacs(*radiographs(1))
    with listening(pacs) as url, socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DescryError, match=f"--move-port {port}: .*already in use"):
            fetched(url, tmp_path, port)
    assert pacs.moves == []


def test_an_archive_without_c_move(tmp_path, port):
    class NoMove(Pacs):
        services = (FIND,)

    with (
        listening(NoMove(*radiographs(1))) as url,
        pytest.raises(DescryError, match="if it offers C-GET, leave out --move-port"),
    ):
        fetched(url, tmp_path, port)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["in"], "--move-port: goes with --from"),
        (["--from", "https://host/web"], "--move-port: goes with --from dicom"),
        (["--from", "dicom://A@host:104", "--move-port", "0"], "--move-port 0: ports are numbers"),
        (["--from", "dicom://A@host:104", "--move-port", "65536"], "--move-port 65536: ports"),
        (["--from", "dicoms://A@host:104"], "set DESCRY_TLS_CERTIFICATE and DESCRY_TLS_KEY"),
    ],
)
def test_options_that_cannot_work(tmp_path, options, message):
    call = ["predict", "--move-port", "11112", *options, "--query", "Modality=CR"]
    call += ["-o", str(tmp_path / "out"), "--checkpoint", "model.safetensors"]
    if "in" in options:
        call = [word for word in call if word not in ("--query", "Modality=CR")]
    said = CliRunner().invoke(app, call)
    assert said.exit_code != 0
    assert message in (said.output if said.exception is None else str(said.exception))


def secured(authority, signer=None):
    """The environment of one who trusts `authority` and was vouched for by `signer`."""
    own, key = (signer or authority).certificate("descry", ("127.0.0.1",))
    files = {"CA": authority.ca, "CERTIFICATE": own, "KEY": key}
    return {f"DESCRY_TLS_{name}": str(path) for name, path in files.items()}


def test_tls_both_ways(authority, stranger, tmp_path, port):
    """The archive has to trust us, and we it; a silent stranger keeps it from nothing."""
    ours = secured(authority)
    pacs = Pacs(*radiographs(2), places={"DESCRY": port})
    with listening(pacs, authority.server()) as url:
        pacs.tls = client_context(ours)
        mute = socket.socket()
        thread = threading.Thread(target=_connect, args=(mute, port))
        thread.start()
        with mute:
            lost, moved = fetched(url, tmp_path / "both", port, environment=ours)
            thread.join()
        assert (lost, sorted(moved)) == ({}, names(1, 2))
        pacs.tls = client_context(secured(authority, stranger))
        with pytest.raises(DescryError, match=rf"A801H, but on port {port} its certificate is not"):
            fetched(url, tmp_path / "archive", port, environment=ours)
        pacs.tls = client_context(secured(stranger))
        with pytest.raises(DescryError, match=rf"A801H, but on port {port} it does not accept our"):
            fetched(url, tmp_path / "ours", port, environment=ours)
        pacs.tls = None
        with pytest.raises(DescryError, match=rf"A801H, but on port {port} it does not speak TLS"):
            fetched(url, tmp_path / "plain", port, environment=ours)


@pytest.mark.parametrize("tls", [False, True])
def test_orthanc(authority, tmp_path, tls):
    with orthanc(tmp_path, authority if tls else None) as server:
        upload(server, tmp_path / "in")
        environment = secured(authority) if tls else None
        lost, moved = fetched(server.dimse, tmp_path / "move", server.back, 20, environment)
        same = fetched(server.dimse, tmp_path / "get", None, 20, environment)
        assert (lost, moved) == same
        assert lost == {} and sorted(moved) == names(1, 2, 3)
        while (port := free_port()) == server.back:
            pass
        lost, moved = fetched(server.dimse, tmp_path / "wrong", port, 20, environment)
        said = f"not given (status C000H, but nothing has come to port {port})"
        assert (set(lost.values()), moved) == ({said}, {})
