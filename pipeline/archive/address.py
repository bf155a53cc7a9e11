"""Addresses of archives: ``https://host/dicom-web`` and ``dicom(s)://AET@host:port``."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from requests.certs import where

from pipeline.archive.tls import client_context
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
class DimseAddress:
    """A DICOM application entity, and what we call ourselves (titles: PS3.8 7.1.1.4).

    Attributes
    ----------
    tls : SSLContext or None
        What connections are made with; None: unencrypted.
    """

    title: str
    host: str
    port: int
    own_title: str = "DESCRY"
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)


def parse_address(
    text: str, environment: Mapping[str, str] = os.environ
) -> WebAddress | DimseAddress:
    """Read an address; credentials and certificates come from the environment.

    Raises
    ------
    DescryError
        When it is neither kind, or holds a password. The message does not repeat it. And when a
        certificate or key cannot be read (`pipeline.archive.tls`).
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme in ("http", "https") and host:
        if "@" in parts.netloc:
            raise DescryError(
                f"{parts.scheme}://…@{host}: no credentials in an address, they end up in logs; "
                f"set {USER} and {PASSWORD}, or {TOKEN}"
            )
        user, password, token = (environment.get(name, "") for name in (USER, PASSWORD, TOKEN))
        bundle = environment.get("REQUESTS_CA_BUNDLE") or where()  # what requests goes by
        tls = client_context(environment, bundle) if parts.scheme == "https" else None
        return WebAddress(text.rstrip("/"), user, password, token, tls)
    dimse = parts.scheme in ("dicom", "dicoms")
    if dimse and host and port and parts.username and not parts.password:
        own = environment.get(AE_TITLE, "DESCRY")
        for title in (parts.username, own):
            if not 0 < len(title.strip()) <= 16:
                raise DescryError(f"AE title {title!r}: 1 to 16 characters are allowed")
        tls = client_context(environment) if parts.scheme == "dicoms" else None
        return DimseAddress(parts.username, host, port, own, tls)
    raise DescryError(
        "the address of an archive is http(s)://HOST[:PORT]/PATH for DICOMweb or "
        "dicom(s)://AETITLE@HOST:PORT for DIMSE, with an s for TLS"
    )
