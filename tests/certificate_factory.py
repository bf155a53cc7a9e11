"""Certificates for tests, in PEM files: an authority and whom it vouches for."""

import datetime
import ipaddress
import ssl

import pytest

pytest.importorskip("cryptography", reason="needs cryptography: pip install cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from orthanc import HERE

_PEM, _PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


class Authority:
    """Signs certificates; its own is `ca`, a file in `folder`."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.folder, self.ca = folder, folder / "ca.pem"
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name(folder.name)
        certificate = self._made(self._name, self._key, x509.BasicConstraints(True, None), [])
        self.ca.write_bytes(certificate.public_bytes(_PEM))

    def certificate(self, name, hosts=(), days=(-1, 1), password=None):
        """Files with a certificate and its key."""
        key, alternatives = ec.generate_private_key(ec.SECP256R1()), []
        for host in hosts:
            number = host[0].isdigit()
            alternatives.append(
                x509.IPAddress(ipaddress.ip_address(host)) if number else x509.DNSName(host)
            )
        limits = x509.BasicConstraints(False, None)
        made = self._made(_name(name), key, limits, alternatives, days).public_bytes(_PEM)
        locked = serialization.NoEncryption()
        if password:
            locked = serialization.BestAvailableEncryption(password.encode())
        files = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        files[0].write_bytes(made)
        files[1].write_bytes(key.private_bytes(_PEM, _PKCS8, locked))
        return files

    def _made(self, name, key, limits, alternatives, days=(-1, 1)):
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now + datetime.timedelta(days[0]),
            not_valid_after=now + datetime.timedelta(days[1]),
        ).add_extension(limits, critical=True)
        if alternatives:
            made = made.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return made.sign(self._key, hashes.SHA256())

    def server(self, hosts=HERE, days=(-1, 1), clients=False, newest=None):
        """What a server listens with; `clients` have to have a certificate too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate("server", hosts, days))
        if newest is not None:
            context.maximum_version = newest
        if clients:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
