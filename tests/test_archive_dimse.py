"""DIMSE archives that behave as Orthanc does not, but others do."""

import logging

import pytest
from archive_factory import LITTLE, ROOT, Pacs, Tap, listening, radiographs
from dicom_factory import save
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as FIND,
)

from pipeline.archive import connection
from pipeline.archive.address import parse_address
from pipeline.archive.connection import cut
from pipeline.archive.query import parse_query
from pipeline.archive.transfer import Transfers
from pipeline.errors import DescryError

# pynetdicom leaves sockets and threads to the collector when a connection is cut.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ANY = parse_query(["Modality=DX"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(connection, "WAITS", (0.1, 0.1, 0.1, None))


def fetched(url, folder, timeout=5.0):
    """What is lost, and the names of what arrived."""
    lost = Transfers(parse_address(url, {}), ANY, timeout=timeout).fetch(folder)
    return lost, sorted(path.stem for path in folder.rglob("*") if path.is_file())


def names(*numbers):
    return [f"{ROOT}9.{number}" for number in numbers]


def path_of(number):
    return f"{ROOT}2/{ROOT}3/{ROOT}9.{number}.dcm"


def test_objects_that_fail_with_the_others_around_them(tmp_path):
    class Partly(Pacs):
        def get(self, event):
            wanted = event.identifier.SOPInstanceUID
            if wanted.endswith("9.2"):  # the file is lost: no match, but a warning
                yield 1
                yield 0xFF00, Dataset()
            elif wanted.endswith("9.3"):
                yield 1
                yield 0xA701, None
            else:
                yield from super().get(event)

    with listening(Partly(*radiographs(4))) as url:
        lost, there = fetched(url, tmp_path)
    assert there == names(1, 4)
    assert list(lost) == [path_of(2), path_of(3)]
    assert lost[path_of(3)] == "not given (status A701H)"


@pytest.mark.parametrize(
    "syntax", [uid.RLELossless, uid.DeflatedExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
)
def test_an_archive_that_gives_one_syntax_only(tmp_path, syntax):
    class Single(Pacs):
        syntaxes = (syntax,)

    with listening(Single(*radiographs(1, syntax=syntax))) as url:
        assert fetched(url, tmp_path) == ({}, names(1))
    assert dcmread(tmp_path / path_of(1)).file_meta.TransferSyntaxUID == syntax


def test_an_archive_that_refuses_every_picture(tmp_path):
    class Video(Pacs):
        syntaxes = (uid.MPEG2MPML,)

    with listening(Video(*radiographs(1))) as url:
        lost, there = fetched(url, tmp_path)
    assert there == [] and lost[path_of(1)].startswith("not given (status ")


def test_an_archive_without_a_service(tmp_path):
    class Mute(Pacs):
        services = ()

    class NoGet(Pacs):
        services = (FIND,)

    with listening(Mute()) as url, pytest.raises(DescryError, match="does not offer what we ask"):
        fetched(url, tmp_path)
    with listening(NoGet(*radiographs(1))) as url:
        lost, _ = fetched(url, tmp_path)
    assert lost == {
        path_of(1): "the archive does not offer C-GET; if it offers C-MOVE, add --move-port PORT"
    }


def test_an_archive_that_is_full_for_a_while(tmp_path):
    """The reason is 'local limit exceeded' (PS3.8 9.3.4): no question of titles."""
    pacs = Pacs(*radiographs(1))
    pacs.most = 1
    with listening(pacs) as url:
        address = parse_address(url, {})
        other = AE()
        other.add_requested_context(FIND)
        taken = other.associate(address.host, address.port, ae_title="PACS")
        try:
            with pytest.raises(DescryError, match="it has too many connections, 4 attempts"):
                fetched(url, tmp_path)
        finally:
            taken.release()
        assert fetched(url, tmp_path) == ({}, names(1))


def test_a_line_that_breaks_in_the_middle(tmp_path):
    """Once in the search, twice in the same object: all arrive, each whole."""
    pacs, tap = Pacs(*radiographs(3, side=200)), Tap(cuts=(350, 10**6, 60_000, 9_000))
    with listening(pacs) as url, tap.before(url) as line:
        assert fetched(line, tmp_path) == ({}, names(1, 2, 3))
    for one in pacs.held:
        assert dcmread(tmp_path / path_of(one.SOPInstanceUID[-1])).PixelData == one.PixelData


def test_an_object_at_which_the_line_always_breaks_costs_itself_only(tmp_path):
    class Poisoned(Pacs):
        def get(self, event):
            if event.identifier.SOPInstanceUID.endswith("9.2"):
                event.assoc.abort()
                return
            yield from super().get(event)

    with listening(Poisoned(*radiographs(3))) as url:
        lost, there = fetched(url, tmp_path)
    assert there == names(1, 3)
    assert lost == {path_of(2): "the connection breaks at this object, 4 attempts"}


def test_an_archive_that_breaks_at_every_object(tmp_path):
    class Broken(Pacs):
        def get(self, event):
            self.gets.append(event.identifier.SOPInstanceUID)
            event.assoc.abort()
            yield 0

    pacs = Broken(*radiographs(9))
    with listening(pacs) as url, pytest.raises(DescryError, match="breaks the connection again"):
        fetched(url, tmp_path)
    assert len(pacs.gets) == 8


@pytest.mark.parametrize("cuts", [(3,), (200,), (10**6, 20_000), (10**6, 20_003)])
def test_an_archive_that_falls_silent(tmp_path, cuts):
    """Between two messages, within one, within the first bytes of one."""
    tap = Tap(cuts=cuts, silent=True)
    with listening(Pacs(*radiographs(1, side=200))) as url, tap.before(url) as line:
        assert fetched(line, tmp_path, timeout=1.0) == ({}, names(1))


def test_who_waits_on_a_line_that_has_ended_is_woken():
    """pynetdicom's own thread may have taken the word that no message will come."""
    with (
        listening(Pacs()) as url,
        connection.Connection(parse_address(url, {}), 5.0, [build_context(FIND)]) as line,
    ):

        def ask(association):
            cut(association)
            association.join(5)
            return association.dimse.msg_queue.get(timeout=5)

        assert line.tried(ask) == (None, None)


def test_a_slow_archive_is_not_a_silent_one(tmp_path):
    """40 pieces, 0.05 s apart: 2 s in all, and never 1 s without a word."""
    tap = Tap(pause=0.05)
    with listening(Pacs(*radiographs(1, side=800))) as url, tap.before(url) as line:
        assert fetched(line, tmp_path, timeout=1.0) == ({}, names(1))
    assert tap.connections == 2


def test_an_archive_that_gives_more_than_it_is_asked_for(tmp_path):
    """Some answer with the whole series, and some with what nobody wanted."""
    stranger = radiographs(4)[3]
    stranger.StudyInstanceUID = ROOT + "77"

    class Generous(Pacs):
        def get(self, event):
            yield len(self.held) + 1
            for one in (stranger, *self.held):
                yield 0xFF00, one

    with listening(Generous(*radiographs(3))) as url:
        assert fetched(url, tmp_path) == ({}, names(1, 2, 3))


def test_an_archive_that_names_a_study_by_nothing(tmp_path):
    """An empty UID is a wildcard (PS3.4 C.2.2.2.3): it must not be asked for."""

    class Nameless(Pacs):
        def find(self, event):
            for status, answer in super().find(event):
                if event.identifier.QueryRetrieveLevel == "STUDY":
                    answer.StudyInstanceUID, answer.StudyDate = None, "20260105"
                yield status, answer

    with listening(Nameless(*radiographs(3))) as url:
        lost, there = fetched(url, tmp_path)
    assert there == []
    assert lost == {"object-1": "the archive names it by something that is no UID"}


def test_an_archive_that_does_not_match_a_key_says_so(tmp_path, caplog):
    class Vague(Pacs):
        def find(self, event):
            for _, answer in super().find(event):
                yield 0xFF01, answer

    with listening(Vague(*radiographs(3))) as url, caplog.at_level(logging.WARNING):
        assert fetched(url, tmp_path)[1] == names(1, 2, 3)
    (said,) = [record.message for record in caplog.records if record.name.startswith("pipeline")]
    assert "does not match every key of --query" in said


def sent(url, folder, timeout=5.0):
    refused = Transfers(target=parse_address(url, {}), timeout=timeout).send(folder)
    lines = (folder / "sent.csv").read_text().splitlines()[1:]
    return refused, [line.split(",", 1)[1] for line in lines]


def results(folder, number, side=8):
    (folder / "sc").mkdir(parents=True)
    for one in radiographs(number, side):
        save(one, folder / "sc" / f"{one.SOPInstanceUID}.dcm")


@pytest.mark.parametrize("syntax", LITTLE)
def test_an_archive_that_takes_one_syntax_only(tmp_path, syntax):
    class Single(Pacs):
        syntaxes = (syntax,)

    pacs = Single()
    results(tmp_path, 2)
    with listening(pacs) as url:
        assert sent(url, tmp_path) == (0, ["stored,"] * 2)
    assert [one.SOPInstanceUID for one in pacs.stored] == names(1, 2)


def test_what_the_archive_says_to_a_result(tmp_path):
    """A warning and a duplicate are stored: our UIDs say that it is the same object."""

    class Particular(Pacs):
        def store(self, event):
            return (0xB000, 0x0111, 0xA700)[int(event.dataset.SOPInstanceUID[-1]) - 1]

    results(tmp_path, 3)
    with listening(Particular()) as url:
        assert sent(url, tmp_path) == (1, ["stored,", "stored,", "refused,status A700H"])


def test_an_archive_that_takes_no_objects_of_the_kind(tmp_path):
    class Only(Pacs):
        storage = (uid.CTImageStorage,)

    results(tmp_path, 2)
    with listening(Only()) as url:
        refused, said = sent(url, tmp_path)
    assert refused == 2
    assert said == ["refused,the archive does not accept objects of this kind"] * 2


def test_results_are_sent_over_a_line_that_breaks(tmp_path):
    results(tmp_path, 3)
    pacs, tap = Pacs(), Tap(cuts=(300, 400))
    with listening(pacs) as url, tap.before(url) as line:
        assert sent(line, tmp_path) == (0, ["stored,"] * 3)
    assert {one.SOPInstanceUID for one in pacs.stored} == set(names(1, 2, 3))
