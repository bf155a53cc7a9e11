"""TLS towards archives (PS3.15 B.12, BCP 195): whom we trust, who we are, and what went wrong."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import DescryError

CA = "DESCRY_TLS_CA"
CERTIFICATE, KEY = "DESCRY_TLS_CERTIFICATE", "DESCRY_TLS_KEY"
KEY_PASSWORD = "DESCRY_TLS_KEY_PASSWORD"
CHECK_HOST = "DESCRY_TLS_CHECK_HOST"
EARLY = (
    "TLS does not begin (does it speak TLS on this port, and does it accept our certificate or "
    f"the lack of one? See {CERTIFICATE})"
)
UNACCEPTED = f"it does not accept our certificate or the lack of one; set {CERTIFICATE} and {KEY}"

_HOST = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_DATES = {9: "is not valid yet", 10: "has expired"}


def client_context(environment: Mapping[str, str], bundle: str = "") -> ssl.SSLContext:
    """Return what connections are made with: TLS 1.2 or later, certificate and host name checked.

    Parameters
    ----------
    environment : mapping
        `CA`: PEM file with the authorities to trust, instead of the system's. `CERTIFICATE`,
        `KEY`, `KEY_PASSWORD`: our own, for archives that ask who we are. `CHECK_HOST`: "no" where
        certificates of `CA` do not hold the host's name.
    bundle : str
        File or folder of authorities to trust besides the system's, where `CA` is not set.

    Raises
    ------
    DescryError
        When a file cannot be used. The message names the variable and not the path, which is
        nobody else's business.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, environment)
    if not environment.get(CA):
        context.load_default_certs()
        if bundle:
            folder = Path(bundle).is_dir()
            context.load_verify_locations(*((None, bundle) if folder else (bundle,)))
    if _unchecked(environment):
        context.check_hostname = False
    return context


def server_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return what archives connect to: TLS 1.2 or later, our certificate, theirs checked by `CA`.

    Without `CA` an archive needs none.

    Raises
    ------
    DescryError
        When `CERTIFICATE` is not set, and as `client_context`.
    """
    if not environment.get(CERTIFICATE):
        raise DescryError(
            "--move-port: with dicoms:// the archive connects to us over TLS too, "
            f"set {CERTIFICATE} and {KEY}"
        )
    context = _context(ssl.PROTOCOL_TLS_SERVER, environment)
    if environment.get(CA):
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(protocol: int, environment: Mapping[str, str]) -> ssl.SSLContext:
    """The authorities of `CA`, where it is set, and our own certificate, where we have one."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    ours, key = environment.get(CERTIFICATE), environment.get(KEY)
    if environment.get(CA):
        with _file(CA, "it holds no certificate in PEM format"):
            context.load_verify_locations(environment[CA])
    if key and not ours:
        raise DescryError(f"{KEY}: goes with {CERTIFICATE}")
    if ours:
        needs = f"it has to be a key in PEM format that fits {CERTIFICATE} and {KEY_PASSWORD}"
        with _file(CERTIFICATE), Path(ours).open("rb"):
            pass
        with _file(KEY if key else CERTIFICATE, needs):
            # Without a function here OpenSSL would ask at the terminal.
            context.load_cert_chain(ours, key or None, lambda: environment.get(KEY_PASSWORD, ""))
    return context


@contextmanager
def _file(name: str, needs: str = "") -> Iterator[None]:
    """Say which variable names a file that cannot be used."""
    try:
        yield
    except ssl.SSLError:
        raise DescryError(f"{name}: {needs}") from None
    except OSError as error:
        raise DescryError(f"{name}: the file that it names: {error.strerror}") from None


def _unchecked(environment: Mapping[str, str]) -> bool:
    choice = environment.get(CHECK_HOST, "") or "yes"
    if choice not in ("yes", "no"):
        raise DescryError(f"{CHECK_HOST}={choice}: yes and no are allowed")
    if choice == "no" and not environment.get(CA):
        # With the public authorities anybody could have a certificate that passes.
        raise DescryError(f"{CHECK_HOST}=no: goes with {CA}")
    return choice == "no"


def failure(error: BaseException | None) -> ssl.SSLError | None:
    """The failure of TLS that an exception is, or was caused by; HTTP libraries wrap it twice."""
    todo: list[object] = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, ssl.SSLError):
            return one
        if isinstance(one, BaseException):
            todo += [one.__context__, one.__cause__, *one.args]
    return None


def is_final(error: ssl.SSLError | None) -> bool:
    """Say whether another attempt is no use: an early end can be anything."""
    return error is not None and not isinstance(error, ssl.SSLEOFError)


def trouble(error: ssl.SSLError) -> str:
    """Why TLS failed, and the way out."""
    if not is_final(error):
        return EARLY
    reason = error.reason or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _HOST:
            return (
                "its certificate is for another host; use the name that is in it, "
                f"or {CHECK_HOST}=no together with {CA}"
            )
        if error.verify_code in _DATES:
            return f"its certificate {_DATES[error.verify_code]}"
        return f"its certificate is not trusted ({error.verify_message}); set {CA}"
    if "ALERT" in reason and any(
        word in reason for word in ("CERT", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED")
    ):
        return f"{UNACCEPTED} ({reason})"
    if "PROTOCOL" in reason and "VERSION" not in reason.removesuffix("PROTOCOL_VERSION"):
        return f"it offers no TLS of version 1.2 or later ({reason})"
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return "it does not speak TLS on this port"
    return f"TLS failed ({reason})"


def listening(errors: list[OSError]) -> type[ssl.SSLSocket]:
    """A kind of socket that keeps what goes wrong: pynetdicom knows only that something did.

    With TLS 1.3 a client learns when it first reads that its certificate was not accepted. A
    server begins TLS when it first reads, which pynetdicom does in a thread for each connection:
    one that says nothing keeps nobody out.
    """

    class Listening(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            if self.server_side:
                return
            try:
                super().do_handshake(block)
            except OSError as error:
                errors.append(error)
                self.close()  # pynetdicom does not
                raise

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            try:
                return super().recv(buflen, flags)
            except ssl.SSLError as error:
                errors.append(error)
                raise

    return Listening


def speaks_tls(host: str, port: int, timeout: float) -> bool:
    """Say whether a server that we could not talk to wants TLS; nothing is sent but a greeting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
