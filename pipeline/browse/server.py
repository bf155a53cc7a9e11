"""The web server of one person: on the loopback interface, for whoever has the token.

What is refused, before anything is looked at: a Host that is not this machine's loopback name and
port (DNS rebinding: a page elsewhere whose name is made to point here), a request without the
token, a change from another origin. The token is in the address that the command prints; the page
then keeps it in a cookie that no script reads and no other site sends.
"""

import hmac
import json
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pipeline.browse.page import page
from pipeline.browse.session import Query, Session
from pipeline.errors import DescryError

LOOPBACK = "127.0.0.1"
LARGEST_BODY = 2**16
PATIENCE = 30  # s that a connection may be silent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
JSON, HTML, JPEG = "application/json", "text/html; charset=utf-8", "image/jpeg"


class BrowseServer(ThreadingHTTPServer):
    """Serves a session; `address` is where the person goes.

    Parameters
    ----------
    session : Session
    port : int
        0: any that is free.
    """

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise DescryError(f"--port {port}: cannot be opened ({error}); take another") from None
        self.session = session
        self.token = secrets.token_urlsafe(32)
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that no longer wants an answer is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """With the token, as it is printed."""
        return f"http://{LOOPBACK}:{self.server_port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Its name; cookies do not know ports, so the port is in it."""
        return f"descry-{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: BrowseServer
    server_version, sys_version = "descry", ""
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Answer a question."""
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        if not self._host_is_ours():
            return
        if parts.path == "/" and self._is_token(query.get("token", "")):
            self._welcome()
        elif self._may_enter():
            self._answer(_GET.get(parts.path), query)

    def do_POST(self) -> None:
        """Keep a mark."""
        self.close_connection = True
        if not (self._host_is_ours() and self._may_enter() and self._origin_is_ours()):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            self._refuse(HTTPStatus.BAD_REQUEST, f"needs a body of at most {LARGEST_BODY} bytes")
            return
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or urlsplit(self.path).path != "/mark":
            self._refuse(HTTPStatus.BAD_REQUEST, "needs a JSON object, sent to /mark")
            return
        self._answer(lambda session, _: (JSON, session.mark(body)), {})

    def _answer(self, route: "Route | None", query: Query) -> None:
        if route is None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")
            return
        try:
            kind, content = route(self.server.session, query)
        except DescryError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        # Pictures may be kept by the browser: an address never changes what it shows.
        self._send(HTTPStatus.OK, kind, content, keep=kind == JPEG)

    def _host_is_ours(self) -> bool:
        if self.headers.get_all("Host", []) and self.headers["Host"] in self.server.hosts:
            return True
        self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to its own name only")
        return False

    def _may_enter(self) -> bool:
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            morsel = None
        if morsel is not None and self._is_token(morsel.value):
            return True
        text = "open the address that `descry browse` printed, with its token"
        self._refuse(HTTPStatus.FORBIDDEN, text)
        return False

    def _origin_is_ours(self) -> bool:
        origin = self.headers.get("Origin", "")
        if origin in {f"http://{host}" for host in self.server.hosts}:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "changes are taken from the page itself only")
        return False

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode())

    def _welcome(self) -> None:
        """Keep the token in a cookie, and lead on to an address without it."""
        cookie = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
        more = {"Set-Cookie": cookie, "Location": "/"}
        self._send(HTTPStatus.SEE_OTHER, HTML, b"", more=more)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True
        self._send(status, JSON, {"error": text})

    def _send(
        self,
        status: HTTPStatus,
        kind: str,
        content: Any,
        *,
        keep: bool = False,
        more: dict[str, str] | None = None,
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        caching = "private, max-age=3600" if keep else "no-store"
        headers = HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in (headers | {"Cache-Control": caching} | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet: addresses hold the token, and names of files are nobody else's business."""


Route = Callable[[Session, Query], tuple[str, Any]]


def _file(name: str, kind: str) -> Route:
    def route(session: Session, query: Query) -> tuple[str, bytes]:
        return kind, files("pipeline.browse").joinpath(name).read_bytes()

    return route


_GET: dict[str, Route] = {
    "/": lambda session, _: (HTML, page(session).encode()),
    "/browse.js": _file("browse.js", "text/javascript; charset=utf-8"),
    "/browse.css": _file("browse.css", "text/css; charset=utf-8"),
    "/images": lambda session, query: (JSON, session.images(query)),
    "/picture": lambda session, query: (JPEG, session.picture(query)),
    "/augmented": lambda session, query: (JSON, session.augmented(query)),
}
