"""A small source for the tests of the engine; apart, so that worker processes start fast."""

import csv
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.convert.records import Box, Ledger, Picture, Record, Unreadable
from pipeline.convert.registry import find
from pipeline.data.images import ImageError, read_image
from pipeline.data.intensity import Intensity


@dataclass(frozen=True)
class Toy:
    """Reads ``labels.csv``: image,group,split,label,x,y,width,height; a negative ends early."""

    raw: Path
    pause: float = 0.0  # seconds per image

    name: ClassVar[str] = "toy"

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        rows: dict[str, list[tuple[int, list[str]]]] = {}
        with (self.raw / "labels.csv").open(newline="") as stream:
            for line, row in enumerate(csv.reader(stream), start=1):
                ledger.read("labels.csv")
                if len(row) not in (3, 8):
                    ledger.drop("row", f"labels.csv:{line}", "malformed row", ",".join(row))
                    continue
                rows.setdefault(row[0], []).append((line, row))
        for name, lines in rows.items():
            ledger.use("labels.csv", sum(len(row) == 3 for _, row in lines))
            boxes = tuple(_box(line, row) for line, row in lines if len(row) == 8)
            _, group, split = lines[0][1][:3]
            key = name.rsplit(".", 1)[0]
            yield Record(key, f"pictures/{name}", boxes, group, split or None, (40, 30))

    def categories(self) -> list[tuple[str, str]]:
        return [("cell", "thing"), ("nucleus", "thing")]

    def read(self, record: Record) -> Picture:
        time.sleep(self.pause)
        if "segfault" in record.key:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in record.key:
            os._exit(3)
        if "bug" in record.key:
            raise KeyError("a decoder may raise anything")
        try:
            image = read_image(self.raw / record.path)
        except ImageError as error:
            raise Unreadable("corrupt image", str(error)) from error
        notes = (*image.notes, *(["torch is loaded"] if "torch" in sys.modules else []))
        return Picture(
            image.pixels, record.boxes, image.verbatim, notes, {"depth": str(image.pixels.dtype)}
        )


def _box(line: int, row: list[str]) -> Box:
    x, y, width, height = map(float, row[4:])
    return Box(x, y, width, height, row[3], f"labels.csv:{line}")


def opened(name: str, raw: Path, seed: int = 0, **params: object) -> Any:
    """The converter of a dataset on an unchecked raw folder; `params` are those of params.yaml."""
    dataset, intensity = find(name), params.pop("intensity", Intensity())
    return dataset.open(raw, dataset.params(**params), seed=seed, intensity=intensity)
