"""DICOMweb (PS3.18): QIDO-RS to find, WADO-RS to fetch, STOW-RS to store."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from urllib3.exceptions import ReadTimeoutError

from pipeline.archive.address import PASSWORD, TOKEN, USER, WebAddress
from pipeline.archive.query import Instance, Query, is_uid
from pipeline.archive.session import ATTEMPTS, DOWN, open_session
from pipeline.archive.tls import UNACCEPTED, failure, is_final, speaks_tls, trouble
from pipeline.atomic import replacing
from pipeline.dicom.errors import quiet
from pipeline.errors import DescryError

_WAITS = (1.0, 2.0, 4.0)  # seconds before an answer that broke off is asked for again
_WHOLE = 2**31  # bytes: bodies are sent in one piece, which can be sent again
_PAGE = 100  # results: some services refuse to give more than 200
_DUPLICATES = (0x0111, 0xB00E)  # PS3.7 C.4.6; Azure's own
_BROKEN_OFF = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)
Find = Callable[..., list[dict[str, Any]]]
Answer = TypeVar("Answer")


class WebArchive:
    """A DICOMweb service (see `pipeline.archive.transfer.Archive`)."""

    def __init__(self, address: WebAddress, timeout: float) -> None:
        logging.getLogger("dicomweb_client").setLevel(logging.WARNING)
        self._url, self._timeout = urlsplit(address.url), timeout
        self._session = open_session(address)
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
        studies = self._found(self._client.search_for_studies, ("0020000D",), dict(query.study))
        for (study,) in studies:
            if is_uid(study):
                yield from self._within(study, dict(query.series))
            else:
                yield Instance(study, "", "")

    def _within(self, study: str, keys: dict[str, str]) -> Iterator[Instance]:
        """Name the objects of a study in series that match."""
        place = {"study_instance_uid": study}
        for (series,) in self._found(self._client.search_for_series, ("0020000E",), keys, **place):
            if not is_uid(series):
                yield Instance(study, series, "")
                continue
            below = place | {"series_instance_uid": series}
            tags = ("00080018", "00080016")
            for named in self._found(self._client.search_for_instances, tags, {}, **below):
                yield Instance(study, series, *named)

    def _found(
        self, search: Find, tags: tuple[str, ...], keys: dict[str, str], **place: str
    ) -> Iterator[tuple[str, ...]]:
        """Values of all results of a search; a service may give fewer at once than there are.

        The end is a page without a new result: some services know no pages, or repeat.
        """
        offset, seen = 0, set[tuple[str, ...]]()
        while True:
            ask = partial(search, search_filters=keys, limit=_PAGE, offset=offset, **place)
            try:
                page = self._tried(partial(_values, ask, tags))
            except _BrokenOff as error:
                raise self._unreachable(str(error)) from None
            except _Refused as error:
                raise DescryError(f"{self._url.hostname}: the search failed ({error})") from error
            fresh = [one for one in dict.fromkeys(page) if one not in seen]
            if not fresh:
                return
            yield from fresh
            offset, seen = offset + len(page), seen.union(fresh)

    def fetch(
        self, instances: Iterable[Instance], folder: Path
    ) -> Generator[tuple[Instance, str], None, None]:
        """Write each object below `folder`, in the transfer syntax that the archive keeps."""
        broke_before = False
        for instance in instances:
            try:
                reason, broken = self._fetched(instance, folder / instance.path), False
            except _BrokenOff as error:
                if broke_before:
                    raise self._unreachable(str(error)) from None
                reason, broken = f"{error}, {len(_WAITS) + 1} attempts", True
            broke_before = broken
            yield instance, reason

    def _fetched(self, instance: Instance, path: Path) -> str:
        uids = (instance.study, instance.series, instance.uid)
        retrieve = partial(self._client.retrieve_instance, *uids)
        try:
            try:
                dataset = self._tried(partial(retrieve, media_types=(("application/dicom", "*"),)))
            except _Refused as error:
                if error.status != 406:  # Not Acceptable: it may not know the wildcard
                    raise
                dataset = self._tried(partial(retrieve, media_types=("application/dicom",)))
            with self._asking(), quiet():
                if str(dataset.get("SOPInstanceUID", "")) != instance.uid:
                    return "the archive gives another object than the one that was asked for"
                with replacing(path, "wb") as stream:
                    dataset.save_as(stream, enforce_file_format=True)
        except _BrokenOff:
            raise
        except _Refused as error:
            return str(error)
        return ""

    def send(self, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
        """Store files, one a request."""
        for path in paths:
            try:
                reason = self._tried(partial(self._stored, path))
            except _BrokenOff as error:
                raise self._unreachable(str(error)) from None
            except _Refused as error:
                reason = str(error)
            yield path, reason

    def _stored(self, path: Path) -> str:
        """Empty, or why an instance was not stored (PS3.18 10.5.3)."""
        dataset = pydicom.dcmread(path)
        try:
            answer = self._client.store_instances([dataset])
        except requests.HTTPError as error:
            assert error.response is not None
            if error.response.status_code != 409 or not error.response.content:
                raise
            answer = pydicom.Dataset.from_json(error.response.json())
        failed = [int(one.get("FailureReason", 0)) for one in answer.get("FailedSOPSequence", [])]
        if failed and failed[0] not in _DUPLICATES:  # equal UIDs are equal objects
            return f"failure reason {failed[0]:04X}H"
        named = [
            one.get("ReferencedSOPInstanceUID") for one in answer.get("ReferencedSOPSequence", [])
        ]
        if not failed and dataset.SOPInstanceUID not in named:
            return "the archive does not say that it has stored it"
        return ""

    def _tried(self, ask: Callable[[], Answer]) -> Answer:
        """Ask, and again where the answer breaks off: the session looks only at how it begins."""
        for wait in _WAITS:
            try:
                with self._asking(), quiet():
                    return ask()
            except _BrokenOff:
                time.sleep(wait)
        with self._asking(), quiet():
            return ask()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Tell what ends the run from what costs one object."""
        try:
            yield
        except requests.HTTPError as error:
            assert error.response is not None  # requests knows such errors by their answers
            raise self._status(error.response) from None
        except requests.exceptions.JSONDecodeError:
            raise _Refused("the answer is no DICOM JSON") from None
        except requests.RequestException as error:
            silent = bool(error.args) and isinstance(error.args[0], ReadTimeoutError)
            if silent or isinstance(error, _BROKEN_OFF):
                raise _BrokenOff("the answer breaks off") from None
            if (wrong := failure(error)) is not None:
                why = trouble(wrong)
                final = DescryError(f"{self._url.hostname}: {why}")
                raise (final if is_final(wrong) else self._unreachable(why)) from None
            raise self._mute() or self._unreachable(type(error).__name__) from None
        except (OSError, DescryError):
            raise
        except Exception as error:  # what the client and pydicom raise has no common base
            raise _Refused(f"unusable answer ({type(error).__name__})") from error

    def _status(self, response: requests.Response) -> Exception:
        """What an HTTP status means."""
        status = response.status_code
        one_object = response.request.method == "GET" and "/instances/" in str(response.url)
        if status == 401 or (status == 403 and not one_object):  # an object may be locked away
            return DescryError(
                f"{self._url.hostname}: the archive does not let us in (HTTP {status}); "
                f"set {USER} and {PASSWORD}, or {TOKEN}"
            )
        if status in DOWN:
            return self._unreachable(f"HTTP {status}")
        if status == 400 and b"SSL certificate" in response.content:  # what nginx says
            return DescryError(f"{self._url.hostname}: {UNACCEPTED}")
        return (self._mute() if status == 400 else None) or _Refused(f"HTTP {status}", status)

    def _mute(self) -> DescryError | None:
        """The error for a server that wants TLS, which answers to http with 400 or with nothing."""
        host, port = self._url.hostname or "", self._url.port or 80
        if self._url.scheme == "https" or not speaks_tls(host, port, self._timeout):
            return None
        return DescryError(f"{host}: it speaks TLS on this port: write https:// instead of http://")

    def _unreachable(self, what: str) -> DescryError:
        return DescryError(
            f"{self._url.hostname}: the archive cannot be reached ({what}, {ATTEMPTS} attempts); "
            "the same command goes on where it stopped"
        )


class _Refused(Exception):
    """The archive answers, but not with what was asked for."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class _BrokenOff(_Refused):
    """An answer began and did not end."""


def _values(
    ask: Callable[[], list[dict[str, Any]]], tags: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """First values of attributes in DICOM JSON (PS3.18 F.2), empty where absent."""
    return [
        tuple(str((entry.get(tag, {}).get("Value") or [""])[0]) for tag in tags) for entry in ask()
    ]
