"""How a prediction is run: the command line's choices, checked."""

import os
import re
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pipeline.dicom.pseudonym import MIN_KEY_BYTES
from pipeline.errors import DescryError
from pipeline.predict.formats import DICOM
from pipeline.predict.select import Filters

OVERLAYS = ("found", "all", "none")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, slots=True)
class Objects:
    """Which DICOM objects to write, and what they may say of the patient.

    Attributes
    ----------
    kinds : tuple of str
        Names of formats in `DICOM`.
    copy_patient : bool
        Copy patient and study from the source; else these elements stay empty.
    content_date : str
        YYYYMMDD. Not today's date: equal runs give equal bytes. Not the study's: it would tell
        when somebody was examined, and it is not when the content was made.
    """

    kinds: tuple[str, ...] = ()
    copy_patient: bool = False
    content_date: str = "19000101"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, whether each format is written by its name."""
        rest = asdict(self)
        del rest["kinds"]
        return {one.name: one.name in self.kinds for one in DICOM} | rest


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes
    ----------
    batch_size : int
        Pictures per call of the model.
    workers : int
        Processes that decode ahead of the model; 0 decodes in this process, unprotected. -1 is
        for the caller to replace by a number that fits the machine.
    timeout : float
        Seconds after which a decoder that gives no picture counts as hanging.
    score_threshold : float or None
        Lower scores are left out; None takes the checkpoint's operating point.
    overlays : str
        Draw frames with a detection ("found"), "all" frames or "none".
    pixels : int
        So many of the best drawn pictures can be windowed and zoomed in the report.
    filters : Filters
        Which DICOM objects to read.
    window : str
        "auto", "off" or the side of a sliding window in pixels (see `Windows.of`).
    tta : bool
        Look at the mirror image of every picture too (test-time augmentation).
    precision : str
        "fp32", or "bf16" for the network's arithmetic (boxes and scores stay fp32).
    compile : bool
        Compile the network before the first batch.
    objects : Objects
        DICOM objects to write.
    key : bytes or None
        Key of the pseudonyms that stand for UIDs and paths in all that is written; None for none.
    shard, num_shards : int
        Read every `num_shards`-th file from the `shard`-th on (from 0).
    """

    batch_size: int = 4
    workers: int = 1
    timeout: float = 60.0
    score_threshold: float | None = None
    overlays: str = "found"
    pixels: int = 100
    filters: Filters = field(default_factory=Filters)
    window: str = "auto"
    tta: bool = False
    precision: str = "fp32"
    compile: bool = False
    objects: Objects = field(default_factory=Objects)
    key: bytes | None = field(default=None, repr=False)
    shard: int = 0
    num_shards: int = 1

    def __post_init__(self) -> None:
        threshold, day = self.score_threshold, self.objects.content_date
        for option, value, good, allowed in (
            ("--batch-size", self.batch_size, self.batch_size >= 1, "1 or more"),
            ("--workers", self.workers, self.workers >= -1, "0 or more, or -1"),
            ("--timeout", self.timeout, self.timeout > 0, "more than 0 seconds"),
            ("--threshold", threshold, threshold is None or 0 <= threshold <= 1, "0 to 1"),
            ("--window", self.window, _is_window(self.window), "auto, off or pixels (8 or more)"),
            ("--precision", self.precision, self.precision in PRECISIONS, ", ".join(PRECISIONS)),
            ("--content-date", day, _is_date(day), "a day as YYYYMMDD"),
            ("--pixels", self.pixels, self.pixels >= 0, "0 or more"),
            ("--overlays", self.overlays, self.overlays in OVERLAYS, ", ".join(OVERLAYS)),
        ):
            if not good:
                raise DescryError(f"{option} {value}: allowed is {allowed}")
        self._check_objects()

    def _check_objects(self) -> None:
        for one in DICOM:
            if one.name in self.objects.kinds and one.needs_overlays and self.overlays == "none":
                raise DescryError(f"{one.option} stores the overlays: give --overlays found or all")
        if self.objects.copy_patient and self.key is not None:
            raise DescryError("--copy-patient and --pseudonymise exclude each other")
        if self.objects.copy_patient and not self.objects.kinds:
            raise DescryError(f"--copy-patient: goes with {object_options()}")

    def output(self, out: Path) -> Path:
        """Return the folder that this shard writes; `out` itself if there is one shard only."""
        if self.num_shards == 1:
            return out
        return out / f"shard-{self.shard:04d}-of-{self.num_shards:04d}"


def object_options() -> str:
    """The options of all DICOM formats, in words."""
    *others, last = (one.option for one in DICOM)
    return f"{', '.join(others)} or {last}"


def _is_window(text: str) -> bool:
    return text in ("auto", "off") or (text.isdecimal() and int(text) >= 8)


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{8}", text, re.ASCII):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


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
