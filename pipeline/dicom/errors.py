"""How a file fails, and how its words are kept from the terminal."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.uid import UID


class DicomError(Exception):
    """One file (or frame) cannot be used; the run goes on.

    Parameters
    ----------
    kind : str
        A short constant phrase to count by: "not DICOM", "not an image object",
        "no pixel data", "truncated", "too large", "cannot decode" or
        "unsupported photometric interpretation".
    detail : str
        What exactly, without any value that could identify a patient.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


def syntax_name(syntax: UID) -> str:
    """Name and UID of a transfer syntax, for messages; what is no UID may be anything."""
    if re.fullmatch(r"[0-9.]{1,64}", syntax) is None:
        return "that is no UID"
    return str(syntax) if syntax.name == syntax else f"{syntax.name} ({syntax})"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and the codecs from printing or logging: their words quote header values."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "openjpeg")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, state in zip(loggers, before, strict=True):
            logger.disabled = state
