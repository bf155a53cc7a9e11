"""Archives over TLS: Orthanc, what certificates go wrong by, and what is never written."""

import contextlib
import logging
import ssl

import pytest
import requests
from archive_factory import (
    ROOT,
    Pacs,
    Tap,
    Web,
    answering,
    copying,
    listening,
    radiographs,
    upload,
)
from orthanc import PASSWORD, USER, orthanc
from predict_factory import BrightSpots, content
from urllib3.util import Retry

from pipeline.archive import connection
from pipeline.archive.address import parse_address
from pipeline.archive.query import parse_query
from pipeline.archive.tls import server_context
from pipeline.archive.transfer import Transfers
from pipeline.errors import DescryError
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder

# pynetdicom leaves sockets and threads to the collector when a connection is refused.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning"),
]
ANY, SECRET = parse_query(["Modality=DX"]), "saffron-4711"
SERVERS = {"dimse": (listening, Pacs), "web": (answering, Web)}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(Retry, "sleep", lambda *arguments: None)
    monkeypatch.setattr(connection, "WAITS", (0.1, 0.1, 0.1, None))


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc"), authority) as running:
        yield running


class Front:
    """What hospitals put in front of a service to have it speak TLS."""

    def __init__(self, behind):
        self.behind = behind

    def answer(self, method, url, headers, body):
        path = self.behind + url.removeprefix("/web")
        kept = {name: headers[name] for name in ("Accept", "Content-Type") if name in headers}
        answer = requests.request(
            method, path, headers=kept, data=body, auth=(USER, PASSWORD), timeout=9
        )
        kind = {"Content-Type": answer.headers.get("Content-Type", "")}
        return answer.status_code, kind, answer.content


@pytest.fixture(params=["dimse", "web"])
def url(server, authority, request):
    """Orthanc, which wants our certificate."""
    server.clear()
    if request.param == "dimse":
        yield server.dimse
    else:
        with answering(Front(server.web), authority.server(("127.0.0.1",), clients=True)) as front:
            yield front


def with_certificate(authority, signer=None, password=None):
    """The environment of a client that trusts `authority` and was vouched for by `signer`."""
    own, key = (signer or authority).certificate("client", password=password)
    ours = {"DESCRY_TLS_CERTIFICATE": str(own), "DESCRY_TLS_KEY": str(key)}
    if password:
        ours["DESCRY_TLS_KEY_PASSWORD"] = password
    return trusting(authority) | ours


def trusting(authority):
    return {"DESCRY_TLS_CA": str(authority.ca)}


def fetched(url, environment, folder, timeout=5.0):
    lost = Transfers(parse_address(url, environment), ANY, timeout=timeout).fetch(folder)
    return lost, sorted(path.stem for path in folder.rglob("*.dcm"))


def test_from_and_to_an_archive(server, authority, url, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    upload(server, tmp_path / "in")
    address = parse_address(url, with_certificate(authority, password=SECRET))
    transfers = Transfers(address, parse_query(["StudyDate=20260105"]), address, timeout=20)
    summary = predict_folder(
        transfers.fetch,
        tmp_path / "out",
        BrightSpots(),
        options=Options(workers=0, overlays="none"),
        send=copying(transfers),
    )
    assert (summary.counts["files"], summary.counts["processed"], summary.exit_code) == (3, 3, 0)
    assert (tmp_path / "out/sent.csv").read_text().splitlines()[1:] == ["sc/result.dcm,stored,"]
    assert len(server.held()) == 5 and ROOT + "77.1" in server.held()
    written = {path: data for path, data in content(tmp_path / "out").items() if path[:3] != "sc/"}
    seen = caplog.text + "".join(capfd.readouterr()) + str(written) + repr(transfers)
    assert "run.json" in written
    for secret in (SECRET, str(authority.folder), "client-key", "BEGIN"):
        assert secret not in seen


def test_whom_orthanc_does_not_know(authority, stranger, url, tmp_path):
    for environment in (trusting(authority), with_certificate(authority, stranger)):
        with pytest.raises(DescryError, match="accept our certificate or the lack of one"):
            fetched(url, environment, tmp_path)
    wrong = with_certificate(authority) | trusting(stranger)
    with pytest.raises(DescryError, match=r"certificate is not trusted .*set DESCRY_TLS_CA"):
        fetched(url, wrong, tmp_path)
    named, known = url.replace("127.0.0.1", "localhost"), with_certificate(authority)
    with pytest.raises(DescryError, match="certificate is for another host"):
        fetched(named, known, tmp_path)
    with pytest.raises(DescryError, match="holds nothing that matches"):
        fetched(named, known | {"DESCRY_TLS_CHECK_HOST": "no"}, tmp_path)


def test_an_unencrypted_orthanc_at_an_encrypted_address(authority, tmp_path):
    with (
        orthanc(tmp_path) as plain,
        pytest.raises(DescryError, match="does it speak TLS on this port"),
    ):
        fetched(plain.dimse.replace("dicom:", "dicoms:"), trusting(authority), tmp_path / "spool")


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"days": (-9, -1)}, "its certificate has expired"),
        ({"days": (1, 9)}, "its certificate is not valid yet"),
        ({"hosts": ("pacs.example",)}, "its certificate is for another host"),
        ({"newest": ssl.TLSVersion.TLSv1_1}, "offers no TLS of version 1.2 or later"),
        (
            {"clients": True, "newest": ssl.TLSVersion.TLSv1_2},
            "does not accept our certificate or the lack of one",
        ),
    ],
    ids=["expired", "too early", "host", "old", "client with TLS 1.2"],
)
def test_what_is_wrong_with_a_server(authority, tmp_path, kind, server, message):
    serve, archive = SERVERS[kind]
    with (
        serve(archive(*radiographs(1)), authority.server(**server)) as url,
        pytest.raises(DescryError, match=message),
    ):
        fetched(url, trusting(authority), tmp_path)


def test_a_front_that_asks_for_a_certificate_by_a_page(authority, tmp_path):
    """As nginx does, which begins TLS with everybody."""

    class Asking(Web):
        def search(self, key, within, keys):
            return 400, {}, b"<title>400 No required SSL certificate was sent</title>"

    with (
        answering(Asking(), authority.server()) as url,
        pytest.raises(DescryError, match="accept our certificate or the lack of one"),
    ):
        fetched(url, trusting(authority), tmp_path)


@pytest.mark.parametrize("kind", SERVERS)
def test_the_other_scheme(authority, tmp_path, kind):
    serve, archive = SERVERS[kind]
    with serve(archive()) as url, pytest.raises(DescryError, match="does not speak TLS on this"):
        fetched(url.replace("://", "s://"), trusting(authority), tmp_path)
    with (
        serve(archive(), authority.server()) as url,
        pytest.raises(DescryError, match=r"speaks TLS on this port: write (dicom|http)s://"),
    ):
        fetched(url.replace("s://", "://"), {}, tmp_path)


@pytest.mark.parametrize("kind", SERVERS)
def test_only_the_authority_that_is_named_is_trusted(
    authority, stranger, tmp_path, monkeypatch, kind
):
    """Without one, the list that requests goes by is, for DICOMweb."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca))
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(authority.ca))
    system, serve = {"REQUESTS_CA_BUNDLE": str(authority.ca)}, SERVERS[kind][0]
    with serve(SERVERS[kind][1](*radiographs(1)), authority.server()) as url:
        with pytest.raises(DescryError, match="its certificate is not trusted"):
            fetched(url, system | trusting(stranger), tmp_path)
        if kind == "web":
            assert fetched(url, system, tmp_path) == ({}, [ROOT + "9.1"])


@pytest.mark.parametrize("silent", [False, True])
def test_an_encrypted_line_that_breaks_or_falls_silent(authority, tmp_path, silent):
    tap = Tap(cuts=(900, 10**6, 30_000), silent=silent)
    pacs = Pacs(*radiographs(2, side=200))
    with listening(pacs, authority.server()) as url, tap.before(url) as way:
        found = fetched(way, trusting(authority), tmp_path, timeout=1.0 if silent else 5.0)
    assert found == ({}, [ROOT + "9.1", ROOT + "9.2"])
    assert tap.connections == 4


def shake_hands(ours, theirs):
    """TLS between two contexts in memory; what a server makes of the client decides at its end."""
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = ours.wrap_bio(to_us, to_them, server_side=True)
    there = theirs.wrap_bio(to_them, to_us)
    for _ in range(4):
        for side in (there, here):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()


def test_who_connects_to_us_has_to_be_known_where_an_authority_is_named(authority, stranger):
    known, own = trusting(authority), with_certificate(authority)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(authority.ca)
    client.check_hostname = False
    shake_hands(server_context({k: v for k, v in own.items() if k not in known}), client)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(server_context(own | known), client)
    client.load_cert_chain(*stranger.certificate("archive"))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(server_context(own | known), client)
    client.load_cert_chain(*authority.certificate("archive"))
    shake_hands(server_context(own | known), client)


def test_settings_that_cannot_work(authority, tmp_path):
    """Known before anything is done; a key with a password does not ask at the terminal."""
    known, other = with_certificate(authority), authority.certificate("other")
    own, key = known["DESCRY_TLS_CERTIFICATE"], known["DESCRY_TLS_KEY"]
    locked = str(authority.certificate("locked", password=SECRET)[1])
    (tmp_path / "text").write_text("no certificate\n")
    text, none = str(tmp_path / "text"), str(tmp_path / "none")
    fits = "DESCRY_TLS_KEY: it has to be a key in PEM format that fits"
    for wrong, message in (
        ({"CA": none}, "DESCRY_TLS_CA: the file that it names: No such file"),
        ({"CA": text}, "DESCRY_TLS_CA: it holds no certificate in PEM format"),
        ({"CERTIFICATE": none, "KEY": key}, "DESCRY_TLS_CERTIFICATE: the file that it names: No"),
        ({"CERTIFICATE": own, "KEY": none}, "DESCRY_TLS_KEY: the file that it names: No such"),
        ({"CERTIFICATE": own, "KEY": str(tmp_path)}, "DESCRY_TLS_KEY: "),
        ({"CERTIFICATE": own, "KEY": text}, fits),
        ({"CERTIFICATE": own, "KEY": str(other[1])}, fits),
        ({"CERTIFICATE": own, "KEY": locked}, fits),
        ({"CERTIFICATE": own, "KEY": locked, "KEY_PASSWORD": "guess"}, fits),
        ({"CERTIFICATE": own}, "DESCRY_TLS_CERTIFICATE: it has to be a key"),
        ({"KEY": key}, "DESCRY_TLS_KEY: goes with DESCRY_TLS_CERTIFICATE"),
        ({"CHECK_HOST": "no"}, "DESCRY_TLS_CHECK_HOST=no: goes with DESCRY_TLS_CA"),
        ({"CHECK_HOST": "0"}, "DESCRY_TLS_CHECK_HOST=0: yes and no are allowed"),
    ):
        environment = {f"DESCRY_TLS_{name}": value for name, value in wrong.items()}
        for url in ("dicoms://PACS@host:2762", "https://host/web"):
            with pytest.raises(DescryError) as caught:
                parse_address(url, environment)
            assert str(caught.value).startswith(message)
            assert str(tmp_path) not in str(caught.value) and "guess" not in str(caught.value)
        assert parse_address("dicom://PACS@host:104", environment).tls is None
