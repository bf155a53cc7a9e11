"""Addresses of archives: ``https://host/dicom-web`` and ``dicom(s)://AET@host:port``."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from urllib.parse import SplitResult, urlsplit

from pipeline.archive.tls import client_context, server_context
from pipeline.errors import DescryError

USER, PASSWORD = "DESCRY_DICOMWEB_USER", "DESCRY_DICOMWEB_PASSWORD"
TOKEN = "DESCRY_DICOMWEB_TOKEN"
AE_TITLE = "DESCRY_AE_TITLE"


@dataclass(frozen=True, slots=True)
class WebAddress:
    """A DICOMweb service.

    Attributes
    ----------
    url : str
        Without credentials.
    user, password, token : str
        From the environment; empty where there are none. They are never shown.
    tls : SSLContext or None
        What connections are made with; None: unencrypted.
    """

    url: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class MoveDestination:
    """Where archives send what is asked for by C-MOVE (PS3.4 C.4.2): a port of this machine.

    Attributes
    ----------
    tls : SSLContext or None
        What connections are accepted with; None: unencrypted.
    """

    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class DimseAddress:
    """A DICOM application entity, and what we call ourselves (titles: PS3.8 7.1.1.4).

    Attributes
    ----------
    tls : SSLContext or None
        What connections are made with; None: unencrypted.
    destination : MoveDestination or None
        Where objects come to by C-MOVE; None: they come by C-GET.
    """

    title: str
    host: str
    port: int
    own_title: str = "DESCRY"
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    destination: MoveDestination | None = None


def parse_address(
    text: str, environment: Mapping[str, str] = os.environ, move_port: int | None = None
) -> WebAddress | DimseAddress:
    """Read an address; credentials and certificates come from the environment.

    Parameters
    ----------
    move_port : int or None
        Port on which we receive what is asked for by C-MOVE; None: C-GET.

    Raises
    ------
    DescryError
        When it is neither kind, or holds a password. The message does not repeat it. When a
        certificate or key cannot be read (`pipeline.archive.tls`), or there can be no such port.
        And when the libraries of the extra `archive` are not installed.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme in ("http", "https") and host:
        if move_port is not None:
            raise DescryError("--move-port: goes with --from dicom(s)://, not with DICOMweb")
        _require("requests", "dicomweb_client")
        return _web(text, parts, environment)
    dimse = parts.scheme in ("dicom", "dicoms")
    if dimse and host and port and parts.username and not parts.password:
        own = environment.get(AE_TITLE, "DESCRY")
        for title in (parts.username, own):
            if not 0 < len(title.strip()) <= 16:
                raise DescryError(f"AE title {title!r}: 1 to 16 characters are allowed")
        _require("pynetdicom")
        secure = parts.scheme == "dicoms"
        tls = client_context(environment) if secure else None
        destination = None if move_port is None else _destination(move_port, secure, environment)
        return DimseAddress(parts.username, host, port, own, tls, destination)
    raise DescryError(
        "the address of an archive is http(s)://HOST[:PORT]/PATH for DICOMweb or "
        "dicom(s)://AETITLE@HOST:PORT for DIMSE, with an s for TLS"
    )


def _require(*libraries: str) -> None:
    """Say how to get what most who use the project never need."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise DescryError(
            f"--from, --to: archives need {' and '.join(missing)}, which "
            "`python -m pip install 'descry[archive]'` installs"
        )


def _web(text: str, parts: SplitResult, environment: Mapping[str, str]) -> WebAddress:
    if "@" in parts.netloc:
        raise DescryError(
            f"{parts.scheme}://…@{parts.hostname}: no credentials in an address, they end up in "
            f"logs; set {USER} and {PASSWORD}, or {TOKEN}"
        )
    user, password, token = (environment.get(name, "") for name in (USER, PASSWORD, TOKEN))
    from requests.certs import where  # of the extra `archive`

    bundle = environment.get("REQUESTS_CA_BUNDLE") or where()  # what requests goes by
    tls = client_context(environment, bundle) if parts.scheme == "https" else None
    return WebAddress(text.rstrip("/"), user, password, token, tls)


def _destination(port: int, secure: bool, environment: Mapping[str, str]) -> MoveDestination:
    if not 0 < port < 2**16:
        raise DescryError(f"--move-port {port}: ports are numbers from 1 to 65535")
    return MoveDestination(port, server_context(environment) if secure else None)
