"""What the tests of all converters use: images on disk, scans whose rows add up, whole runs."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from toy_source import opened

from pipeline.convert import convert, open_source
from pipeline.convert.records import Ledger, Record, Source

OPTIONS = {"seed": 0, "val_fraction": 0.2, "test_fraction": 0.2, "workers": 1, "progress": False}


def picture(path: Path, width: int = 20, height: int = 10, **options: Any) -> np.ndarray:
    """Write a grey image of noise that follows from its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.as_posix()))
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def scan(source: Source) -> tuple[list[Record], Ledger]:
    """Records and ledger of an opened source."""
    ledger = Ledger()
    return list(source.scan(ledger)), ledger


def scan_tables(name: str, raw: Path, **parameters: Any) -> tuple[list[Record], Ledger]:
    """Records and ledger of a dataset of tables; every row read must be used or dropped."""
    records, ledger = scan(opened(name, raw, **parameters))
    for file, rows in ledger.rows_read.items():
        boxes = sum(b.where.startswith(f"{file}:") for r in records for b in r.boxes)
        dropped = sum(d.kind == "row" and d.where.startswith(f"{file}:") for d in ledger.drops)
        assert rows == boxes + ledger.rows_without_box.get(file, 0) + dropped, file
    return records, ledger


def reasons(ledger: Ledger) -> Counter[tuple[str, str]]:
    return Counter((drop.kind, drop.reason) for drop in ledger.drops)


def drops(ledger: Ledger) -> list[tuple[str, str, str]]:
    return [(drop.kind, drop.where, drop.reason) for drop in ledger.drops]


def run(name: str, raw: Path, out: Path, workers: int = 1) -> dict[str, Any]:
    """A whole conversion; its report."""
    return convert(open_source(name, raw), out, **OPTIONS | {"workers": workers})


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
