"""HTTP towards a DICOMweb service: credentials, certificates, further attempts, no detours."""

import logging
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry

from pipeline.archive.address import WebAddress
from pipeline.archive.tls import failure, is_final
from pipeline.errors import DescryError

log = logging.getLogger(__name__)
ATTEMPTS = 4  # with 1, 2, 4 s between them
DOWN = (502, 503, 504)
_BUSY = (408, 429, 500, *DOWN)  # worth another attempt


def open_session(address: WebAddress) -> requests.Session:
    """Return a session that tries again, waiting longer each time, and knows the credentials.

    Its answers are whole: a body that breaks off is a `requests.exceptions.ChunkedEncodingError`.
    It raises DescryError in place of following a redirect.
    """
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(address))
    session.auth = _Credentials(address)
    session.hooks["response"].append(_checked)
    secret, scheme = address.token or address.user, urlsplit(address.url).scheme
    if secret and scheme == "http":
        log.warning("credentials travel unencrypted over http; use https outside of this machine")
    return session


class _Credentials(AuthBase):
    """Those of an address, and no others: without this requests would look into ~/.netrc."""

    def __init__(self, address: WebAddress) -> None:
        self._address = address

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        one = self._address
        if one.token:
            request.headers["Authorization"] = f"Bearer {one.token}"
        elif one.user:
            HTTPBasicAuth(one.user.encode(), one.password.encode())(request)
        return request


class _Adapter(HTTPAdapter):
    """Connections with the TLS context of an address, whatever else requests would trust."""

    def __init__(self, address: WebAddress) -> None:
        self._tls: dict[str, Any] = {}
        if address.tls is not None:
            checked = None if address.tls.check_hostname else False
            self._tls = {"ssl_context": address.tls, "assert_hostname": checked}
        again = _Patience(
            total=ATTEMPTS - 1,
            backoff_factor=1,
            status_forcelist=_BUSY,
            allowed_methods=None,  # storing twice is harmless: the UIDs are the same
            raise_on_status=False,
        )
        super().__init__(max_retries=again)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **options: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **options, **self._tls)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, **self._tls)

    def cert_verify(self, *arguments: Any, **options: Any) -> None:
        """Add no authorities: the context has all that are trusted."""

    def add_headers(self, request: requests.PreparedRequest, **options: Any) -> None:
        request.headers.pop("Host", None)  # dicomweb-client's lacks the port (RFC 9110 7.2)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        return super().send(request, **(options | {"verify": True, "cert": None}))


class _Patience(Retry):
    """As urllib3's, but a refused certificate stays refused, and no wait is endless."""

    LONGEST = 120.0  # seconds that an archive may ask for (Retry-After)

    def get_retry_after(self, response: Any) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, self.LONGEST)

    def increment(self, method: Any = None, url: Any = None, **options: Any) -> Retry:  # type: ignore[override]
        error = options.get("error")
        if is_final(failure(error)):
            raise MaxRetryError(options["_pool"], str(url), error) from error
        return super().increment(method, url, **options)


def _checked(response: requests.Response, **options: Any) -> requests.Response:
    """Look at an answer before anybody else does."""
    if response.is_redirect:
        # A POST would become a GET, and another host is not the one that was named.
        target = urlsplit(urljoin(response.url, response.headers["Location"]))
        raise DescryError(
            f"{urlsplit(response.url).hostname}: the archive sends us on to "
            f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}; "
            "if that is where it is, give that address"
        )
    if response.status_code == 204 and "/instances/" in urlsplit(response.url).path:
        raise requests.HTTPError("no object", response=response)  # of a search it is an answer
    kind, *parameters = (
        part.strip() for part in response.headers.get("Content-Type", "").split(";")
    )
    if not kind.lower().startswith("multipart/"):
        response.headers["Content-Type"] = kind  # dicomweb-client knows none with a charset
        return response
    named = [
        part.partition("=")[2].strip('"') for part in parameters if part[:9].lower() == "boundary="
    ]
    if named and f"--{named[0]}--".encode() not in response.content:
        raise requests.exceptions.ChunkedEncodingError("no closing delimiter (RFC 2046 5.1.1)")
    return response
