"""Addresses of archives: ``https://host/dicom-web`` and ``dicom://AET@host:port``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

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
    """

    url: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DimseAddress:
    """A DICOM application entity, and what we call ourselves (titles: PS3.8 7.1.1.4)."""

    title: str
    host: str
    port: int
    own_title: str = "DESCRY"


def parse_address(
    text: str, environment: Mapping[str, str] = os.environ
) -> WebAddress | DimseAddress:
    """Read an address; credentials come from the environment.

    Raises
    ------
    DescryError
        When it is neither kind, or holds a password. The message does not repeat it.
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
        return WebAddress(text.rstrip("/"), user, password, token)
    if parts.scheme == "dicom" and host and port and parts.username and not parts.password:
        own = environment.get(AE_TITLE, "DESCRY")
        for title in (parts.username, own):
            if not 0 < len(title.strip()) <= 16:
                raise DescryError(f"AE title {title!r}: 1 to 16 characters are allowed")
        return DimseAddress(parts.username, host, port, own)
    raise DescryError(
        "the address of an archive is http(s)://HOST[:PORT]/PATH for DICOMweb or "
        "dicom://AETITLE@HOST:PORT for DIMSE"
    )
