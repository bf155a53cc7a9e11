"""Keyed pseudonyms: the same key gives the same pseudonym, without it nobody finds the original.

HMAC-SHA256 (RFC 2104). A plain hash would not do: UIDs and patient IDs can be listed and tried.
"""

import hmac
import uuid
from hashlib import sha256

from pydicom.uid import UID

MIN_KEY_BYTES = 16


class Pseudonyms:
    """Replaces UIDs and texts.

    Parameters
    ----------
    key : bytes
        The secret; `MIN_KEY_BYTES` or more.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @property
    def key_id(self) -> str:
        """Tells keys apart and reveals nothing of them; 16 hexadecimal digits."""
        return self._digest("key", "").hex()[:16]

    def uid(self, original: str) -> str:
        """A UID below 2.25 (PS3.5 B.2, a UUID as a number); empty for an empty one."""
        if not original:
            return ""
        return UID(f"2.25.{uuid.UUID(bytes=self._digest('uid', original)[:16], version=4).int}")

    def text(self, kind: str, original: str) -> str:
        """32 hexadecimal digits for a path, an identifier or the like; empty for an empty one."""
        return self._digest(kind, original).hex()[:32] if original else ""

    def _digest(self, kind: str, original: str) -> bytes:
        content = f"{kind}:{original}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, content, sha256).digest()
