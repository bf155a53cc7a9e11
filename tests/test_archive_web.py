"""DICOMweb services that behave as Orthanc does not, but others do."""

import json
import time
from types import SimpleNamespace

import pytest
from archive_factory import (
    ROOT,
    TAGS,
    Tap,
    Web,
    answering,
    encoded,
    multipart,
    radiographs,
    receipt,
)
from dicom_factory import save
from pydicom import dcmread, uid

from pipeline.archive import web
from pipeline.archive.address import parse_address
from pipeline.archive.query import parse_query
from pipeline.archive.transfer import Transfers
from pipeline.errors import DescryError

ANY = parse_query(["Modality=DX"])
HTML = 200, {"Content-Type": "text/html"}, b"<html>Please log in</html>"


@pytest.fixture
def slept(monkeypatch):
    """Seconds that are waited for, which pass at once."""
    seconds = []
    clock = SimpleNamespace(sleep=seconds.append, time=time.time)
    monkeypatch.setattr("urllib3.util.retry.time", clock)
    monkeypatch.setattr(web, "_WAITS", (0, 0, 0))
    return seconds


pytestmark = pytest.mark.usefixtures("slept")


def fetched(url, folder, timeout=5.0, environment=None):
    """What is lost, and the names of what arrived."""
    lost = Transfers(parse_address(url, environment or {}), ANY, timeout=timeout).fetch(folder)
    return lost, sorted(path.stem for path in folder.rglob("*") if path.is_file())


def names(*numbers):
    return [f"{ROOT}9.{number}" for number in numbers]


def path_of(number):
    return f"{ROOT}2/{ROOT}3/{ROOT}9.{number}.dcm"


@pytest.mark.parametrize("page", [1, 2, 3, 5])
def test_pages_of_a_service_that_gives_fewer_than_asked_for(tmp_path, page):
    service = Web(*radiographs(5))
    service.page = page
    with answering(service) as url:
        assert fetched(url, tmp_path) == ({}, names(1, 2, 3, 4, 5))


def test_a_service_that_knows_no_pages(tmp_path):
    """It ignores the offset, and gives the same in another order."""

    class Whole(Web):
        turn = 1

        def listed(self, key, values):
            self.turn = -self.turn
            return super().listed(key, values[:: self.turn])

        def search(self, key, within, keys):
            return super().search(key, within, {"limit": "9"})

    with answering(Whole(*radiographs(3))) as url:
        assert fetched(url, tmp_path) == ({}, names(1, 2, 3))


def test_a_service_that_bounds_the_page(tmp_path):
    class Bounded(Web):
        def search(self, key, within, keys):
            if int(keys["limit"]) > 200:
                return 400, {}, b""
            return super().search(key, within, keys)

    with answering(Bounded(*radiographs(3))) as url:
        assert fetched(url, tmp_path) == ({}, names(1, 2, 3))


def test_nothing_is_204(tmp_path):
    class Empty(Web):
        def search(self, key, within, keys):
            return 204, {}, b""

    with answering(Empty()) as url, pytest.raises(DescryError, match="nothing that matches"):
        fetched(url, tmp_path)


def test_a_study_without_a_name_is_not_asked_for(tmp_path):
    class Nameless(Web):
        def listed(self, key, values):
            if key == "StudyInstanceUID":
                return 200, {}, json.dumps([{TAGS[key]: {"vr": "UI"}}]).encode()
            return super().listed(key, values)

    with answering(Nameless(*radiographs(1))) as url:
        lost, there = fetched(url, tmp_path)
    assert there == []
    assert lost == {"object-1": "the archive names it by something that is no UID"}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("said", "waited"), [("3", 3), ("86400", 120)])
def test_a_busy_service_says_when_to_come_back(tmp_path, slept, status, said, waited):
    class Busy(Web):
        busy = 1

        def search(self, key, within, keys):
            if self.busy:
                self.busy = 0
                return status, {"Retry-After": said}, b""
            return super().search(key, within, keys)

    with answering(Busy(*radiographs(1))) as url:
        assert fetched(url, tmp_path) == ({}, names(1))
    assert [seconds for seconds in slept if seconds] == [waited]


class Odd(Web):
    """Answers for the second object with what it is made with; the others are well."""

    def __init__(self, *answers):
        super().__init__(*radiographs(3))
        self.answers = list(answers)

    def retrieve(self, name, headers):
        if name.endswith("9.2"):
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return super().retrieve(name, headers)


def whole(number=2):
    return encoded(radiographs(number)[number - 1])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((204, {}, b""), "HTTP 204"),
        ((403, {}, b""), "HTTP 403"),
        ((404, {}, b""), "HTTP 404"),
        ((500, {}, b""), "HTTP 500"),
        ((410, {}, b""), "HTTP 410"),
        (HTML, "unusable answer"),
        (multipart(b"this is no DICOM"), "unusable answer"),
        (multipart(whole(3)), "another object than the one that was asked for"),
    ],
    ids=["204", "403", "404", "500", "410", "html", "no DICOM", "another"],
)
def test_an_object_that_is_not_given_costs_itself_only(tmp_path, answer, reason):
    with answering(Odd(answer)) as url:
        lost, there = fetched(url, tmp_path)
    assert there == names(1, 3)
    assert list(lost) == [path_of(2)] and reason in lost[path_of(2)]


@pytest.mark.parametrize(
    "answer",
    [
        (206, *multipart(whole())[1:]),
        multipart(whole(), part=b"content-type: application/dicom; transfer-syntax=*\r\n"),
        multipart(whole(), closing=b"\r\n--cut--"),
        (200, {"Content-Type": "multipart/related; boundary=cut"}, multipart(whole())[2]),
        (200, {"Content-Type": "application/dicom; transfer-syntax=1.2"}, whole()),
    ],
    ids=["206", "syntax", "no line end", "bare", "single part"],
)
def test_answers_of_many_shapes_are_read(tmp_path, answer):
    with answering(Odd(answer)) as url:
        assert fetched(url, tmp_path) == ({}, names(1, 2, 3))


def cut(body):
    return body[: len(body) // 2]


@pytest.mark.parametrize(
    "answer",
    [
        (200, {**multipart(whole())[1], "Content-Length": "9000"}, cut(multipart(whole())[2])),
        (200, multipart(whole())[1], cut(multipart(whole())[2])),
    ],
    ids=["length", "no end"],
)
def test_a_body_that_breaks_off_is_asked_for_again(tmp_path, answer):
    service = Odd(answer, answer, multipart(whole()))
    with answering(service) as url:
        assert fetched(url, tmp_path) == ({}, names(1, 2, 3))
    assert dcmread(tmp_path / path_of(2)).PixelData == service.held[1].PixelData


def test_an_object_that_always_breaks_off_costs_itself_only(tmp_path):
    broken = 200, {**multipart(b"")[1], "Content-Length": "9000"}, b"\r\n--cut\r\n"
    with answering(Odd(broken)) as url:
        lost, there = fetched(url, tmp_path)
    assert (there, lost) == (names(1, 3), {path_of(2): "the answer breaks off, 4 attempts"})

    class Broken(Web):
        def retrieve(self, name, headers):
            return broken

    service = Broken(*radiographs(5))
    with (
        answering(service) as url,
        pytest.raises(DescryError, match=r"cannot be reached .the answ"),
    ):
        fetched(url, tmp_path / "none")


def test_a_service_that_falls_silent_in_a_body(tmp_path):
    tap = Tap(cuts=(10**4,), silent=True)
    with answering(Web(*radiographs(1, side=200))) as url, tap.before(url) as line:
        assert fetched(line, tmp_path, timeout=1.0) == ({}, names(1))
    assert tap.connections == 2


def test_a_service_that_does_not_know_the_wildcard_of_syntaxes(tmp_path):
    class Old(Web):
        def retrieve(self, name, headers):
            if "transfer-syntax" in headers["Accept"]:
                return 406, {}, b""
            return super().retrieve(name, headers)

    with answering(Old(*radiographs(2))) as url:
        assert fetched(url, tmp_path) == ({}, names(1, 2))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (HTML, "search failed .the answer is no DICOM JSON"),
        ((200, {}, b"null"), "search failed .unusable answer"),
        ((200, {}, b"[3]"), "search failed .unusable answer"),
        ((403, {}, b""), "does not let us in .HTTP 403"),
        ((404, {}, b""), "search failed .HTTP 404"),
        ((501, {}, b""), "search failed .HTTP 501"),
    ],
)
def test_a_search_that_fails_is_explained(tmp_path, answer, message):
    class Portal(Web):
        def search(self, key, within, keys):
            return answer

    with answering(Portal()) as url, pytest.raises(DescryError, match=message):
        fetched(url, tmp_path)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_credentials_are_not_taken_elsewhere(tmp_path, status):
    """And what is stored is not lost on the way: a POST would become a GET."""
    elsewhere = Web(*radiographs(1))

    class Moved(Web):
        def answer(self, method, url, headers, body):
            return status, {"Location": f"{target}/studies?token=cardamom"}, b""

    results(tmp_path, 1)
    with answering(elsewhere) as target, answering(Moved()) as url:
        for transfer in (lambda: fetched(url, tmp_path / "spool"), lambda: sent(url, tmp_path)):
            with pytest.raises(DescryError, match=r"sends us on to http://127\.0\.0\.1:") as caught:
                transfer()
            assert "cardamom" not in str(caught.value)
    assert elsewhere.requests == []


def test_credentials_come_from_the_environment_alone(tmp_path, monkeypatch):
    """Not from ~/.netrc, which would even take the place of a token."""
    (tmp_path / "netrc").write_text("default login ada password cardamom\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen = []

    class Listening(Web):
        def answer(self, method, url, headers, body):
            seen.append(headers["Authorization"])
            assert headers["Host"].startswith("127.0.0.1:")
            return super().answer(method, url, headers, body)

    with answering(Listening(*radiographs(1))) as url:
        fetched(url, tmp_path / "a")
        fetched(url, tmp_path / "b", environment={"DESCRY_DICOMWEB_TOKEN": "mace"})
        user = {"DESCRY_DICOMWEB_USER": "zoë", "DESCRY_DICOMWEB_PASSWORD": "ł"}
        fetched(url, tmp_path / "c", environment=user)
    assert list(dict.fromkeys(seen)) == [None, "Bearer mace", "Basic em/DqzrFgg=="]


def sent(url, folder):
    refused = Transfers(target=parse_address(url, {}), timeout=5).send(folder)
    lines = (folder / "sent.csv").read_text().splitlines()[1:]
    return refused, [line.split(",", 1)[1] for line in lines]


def results(folder, number):
    (folder / "sc").mkdir(parents=True)
    for one in radiographs(number):
        save(one, folder / "sc" / f"{one.SOPInstanceUID}.dcm")


(NAME,) = names(1)
STORED = "stored,"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (receipt(200, [NAME]), STORED),
        (receipt(200, [NAME], kind="application/dicom+json; charset=utf-8"), STORED),
        (receipt(202, failed=[(NAME, 0x0122)]), "refused,failure reason 0122H"),
        (
            receipt(202, failed=[(NAME, 0x0122)], kind="application/dicom+json;charset=UTF-8"),
            "refused,failure reason 0122H",
        ),
        (receipt(409, failed=[(NAME, 0xC122)]), "refused,failure reason C122H"),
        (receipt(409, failed=[(NAME, 0x0111)]), STORED),
        (receipt(409, failed=[(NAME, 45070)]), STORED),
        ((409, {}, b""), "refused,HTTP 409"),
        ((413, {}, b""), "refused,HTTP 413"),
        ((200, {}, b""), "refused,the archive does not say that it has stored it"),
        (HTML, "refused,the archive does not say that it has stored it"),
        (receipt(200, [ROOT + "5"]), "refused,the archive does not say that it has stored it"),
    ],
)
def test_a_result_counts_as_stored_when_the_archive_says_so(tmp_path, answer, said):
    class Particular(Web):
        def store(self, body):
            return answer

    results(tmp_path, 1)
    with answering(Particular()) as url:
        assert sent(url, tmp_path) == (int(said != STORED), [said])


def test_results_arrive_whole(tmp_path):
    service = Web()
    results(tmp_path, 2)
    with answering(service) as url:
        assert sent(url, tmp_path) == (0, [STORED] * 2)
    assert [one.PixelData for one in service.stored] == [one.PixelData for one in radiographs(2)]
    assert service.stored[0].file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
