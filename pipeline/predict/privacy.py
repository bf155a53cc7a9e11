"""Where the key of pseudonyms comes from."""

import os
from pathlib import Path

from pipeline.dicom.pseudonym import MIN_KEY_BYTES
from pipeline.errors import DescryError

KEY_VARIABLE = "DESCRY_PSEUDONYM_KEY"
_WAY_OUT = (
    f"give --key-file FILE or set {KEY_VARIABLE}; `head -c 32 /dev/urandom | base64 > FILE` makes "
    "a key. Keep it apart from the results: whoever has it can find out whose they are"
)


def read_key(file: Path | None) -> bytes:
    """Read the key of pseudonyms from a file, or else from the environment.

    White space around it does not count.

    Raises
    ------
    DescryError
        When there is none, or it is too short.
    """
    if file is not None:
        try:
            origin, key = f"--key-file {file}", file.read_bytes().strip()
        except OSError as error:
            raise DescryError(f"--key-file {file}: {error.strerror}; {_WAY_OUT}") from error
    else:
        origin, key = KEY_VARIABLE, os.environb.get(KEY_VARIABLE.encode(), b"").strip()
    if not key:
        raise DescryError(f"--pseudonymise needs a key, and {origin} holds none; {_WAY_OUT}")
    if len(key) < MIN_KEY_BYTES:
        raise DescryError(
            f"{origin}: the key has {len(key)} bytes, {MIN_KEY_BYTES} are needed; {_WAY_OUT}"
        )
    return key
