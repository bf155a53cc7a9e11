"""DICOMweb (PS3.18): QIDO-RS to find, WADO-RS to fetch, STOW-RS to store."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from pipeline.archive.address import PASSWORD, TOKEN, USER, WebAddress
from pipeline.archive.query import Instance, Query
from pipeline.atomic import replacing
from pipeline.dicom.errors import quiet
from pipeline.errors import DescryError

log = logging.getLogger(__name__)
_ATTEMPTS = 4  # with 1, 2, 4 s between them
_DOWN = (502, 503, 504)
_BUSY = (408, 429, 500, *_DOWN)  # worth another attempt
_WHOLE = 2**31  # bytes: bodies are sent in one piece, which can be sent again
_PAGE = 1000
Find = Callable[..., list[dict[str, Any]]]


class WebArchive:
    """A DICOMweb service (see `pipeline.archive.transfer.Archive`)."""

    def __init__(self, address: WebAddress, timeout: float) -> None:
        logging.getLogger("dicomweb_client").setLevel(logging.WARNING)
        self._place = urlsplit(address.url).hostname
        self._session = _session(address)
        self._client = DICOMwebClient(
            address.url, session=self._session, timeout=timeout, chunk_size=_WHOLE
        )
        self._client.set_http_retry_params(retry=False)  # the session does that

    def __enter__(self) -> "WebArchive":
        return self

    def __exit__(self, *exception: object) -> None:
        self._session.close()

    def find(self, query: Query) -> Iterator[Instance]:
        """Name the objects that match: studies, their series, their instances."""
        for study in self._pages(self._client.search_for_studies, dict(query.study)):
            uid = _value(study, "0020000D")
            within = {"study_instance_uid": uid}
            for one in self._pages(self._client.search_for_series, dict(query.series), **within):
                series = _value(one, "0020000E")
                below = within | {"series_instance_uid": series}
                for instance in self._pages(self._client.search_for_instances, {}, **below):
                    named = (_value(instance, tag) for tag in ("00080018", "00080016"))
                    yield Instance(uid, series, *named)

    def _pages(self, search: Find, keys: dict[str, str], **place: str) -> Iterator[dict[str, Any]]:
        """All results of a search; a service may give fewer at once than there are."""
        offset, last = 0, list[dict[str, Any]]()
        while True:
            try:
                with self._asking():
                    page = search(search_filters=keys, limit=_PAGE, offset=offset, **place)
            except _Refused as error:
                raise DescryError(f"{self._place}: the search failed ({error})") from error
            if not page or page == last:  # nothing more, or a service that knows no pages
                return
            yield from page
            offset, last = offset + len(page), page

    def fetch(self, instances: Iterable[Instance], folder: Path) -> Iterator[tuple[Instance, str]]:
        """Write each object below `folder`, in the transfer syntax that the archive keeps."""
        for instance in instances:
            yield instance, self._fetched(instance, folder / instance.path)

    def _fetched(self, instance: Instance, path: Path) -> str:
        try:
            with self._asking(), quiet():
                dataset = self._client.retrieve_instance(
                    instance.study, instance.series, instance.uid
                )
                with replacing(path, "wb") as stream:
                    dataset.save_as(stream, enforce_file_format=True)
        except _Refused as error:
            return str(error)
        return ""

    def send(self, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
        """Store files, one a request."""
        for path in paths:
            try:
                with self._asking(), quiet():
                    answer = self._client.store_instances([pydicom.dcmread(path)])
                    reason = _refusal(answer)
            except _Refused as error:
                reason = str(error)
            yield path, reason

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Tell what ends the run from what costs one object."""
        try:
            yield
        except requests.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            if status in (401, 403):
                raise DescryError(
                    f"{self._place}: the archive does not let us in (HTTP {status}); "
                    f"set {USER} and {PASSWORD}, or {TOKEN}"
                ) from None
            if status in _DOWN:
                raise self._unreachable(f"HTTP {status}") from None
            raise _Refused(f"HTTP {status}") from None
        except requests.RequestException as error:
            raise self._unreachable(type(error).__name__) from None
        except (OSError, DescryError):
            raise
        except Exception as error:  # what the client and pydicom raise has no common base
            raise _Refused(f"unusable answer ({type(error).__name__})") from error

    def _unreachable(self, what: str) -> DescryError:
        return DescryError(
            f"{self._place}: the archive cannot be reached ({what}, {_ATTEMPTS} attempts); "
            "the same command goes on where it stopped"
        )


class _Refused(Exception):
    """The archive answers, but not with what was asked for."""


def _session(address: WebAddress) -> requests.Session:
    """A session that tries again, waiting longer each time, and knows the credentials."""
    session = requests.Session()
    again = Retry(
        total=_ATTEMPTS - 1,
        backoff_factor=1,
        status_forcelist=_BUSY,
        allowed_methods=None,  # storing twice is harmless: the UIDs are the same
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    if address.token:
        session.headers["Authorization"] = f"Bearer {address.token}"
    elif address.user:
        session.auth = (address.user, address.password)
    secret, scheme = address.token or address.user, urlsplit(address.url).scheme
    if secret and scheme == "http":
        log.warning("credentials travel unencrypted over http; use https outside of this machine")
    return session


def _value(entry: dict[str, Any], tag: str) -> str:
    """First value of an attribute in DICOM JSON (PS3.18 F.2), empty where absent."""
    values = entry.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _refusal(answer: pydicom.Dataset) -> str:
    """Why an instance was not stored (PS3.18 10.5.3); empty if it was."""
    failed = answer.get("FailedSOPSequence")
    if not failed:
        return ""
    return f"failure reason {int(failed[0].get('FailureReason', 0)):04X}H"
