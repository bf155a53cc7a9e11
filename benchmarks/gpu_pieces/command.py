"""The command line of benchmarks/gpu.py."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from machine import machine

from gpu_pieces import child
from gpu_pieces.runner import Runner
from gpu_pieces.store import ROOT, Place
from gpu_pieces.summary import summary, table
from gpu_pieces.units import FULL, PIECES, TINY, Unit, planned
from pipeline.atomic import write_json
from pipeline.errors import DescryError
from pipeline.versions import versions

PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "triton", "albumentations")
SAMPLE = ROOT / "datasets" / "ccellbio" / "sample"


def main(description: str, arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 when nothing failed, 1 when something did or bits differ, 2 for wrong use."""
    given = _parser(description).parse_args(arguments)
    if given.child:
        child.main(*given.child)
        return 0
    try:
        return _measure(given)
    except DescryError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--pieces", default=",".join(PIECES), help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu, or gpu-tiny")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smoke test, no measurement")
    parser.add_argument("--time-limit", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--batches", metavar="SIDE:IMAGES,...", help="default: 512:16,800:8")
    parser.add_argument("--coco", type=Path, help="a converted ccellbio; default: the sample's")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    return parser


def _measure(given: argparse.Namespace) -> int:
    pieces = wanted_pieces(given.pieces)
    settings = TINY if given.tiny else FULL
    if given.batches:
        settings = replace(settings, batches=wanted_batches(given.batches))
    out = given.out or ROOT / "benchmarks/results" / ("gpu-tiny" if given.tiny else "gpu")
    place = Place(out, {}, machine(), versions(PACKAGES))
    runner = Runner(place, given.time_limit)
    probe = runner.must("probe", {"device": given.device})
    runner.place = place = replace(place, device=probe["device"])
    units = [u for u in planned(settings, probe["families"], given.device) if u.piece in pieces]
    _run(runner, units, given.coco)
    everything = planned(settings, probe["families"], given.device)
    result = summary(place, everything, runner.left, tiny=given.tiny)
    write_json(out / "summary.json", result)
    print(table(result))
    return 1 if result["failed"] else 0


def _run(runner: Runner, units: list[Unit], coco: Path | None) -> None:
    """The study's dataset is converted only if a run of it is to be done."""
    study = [unit for unit in units if unit.piece == "study"]
    runner.run(unit for unit in units if unit.piece != "study")
    if not study:
        return
    with _dataset(runner, study, coco) as folder:
        runner.coco = str(folder)
        runner.run(study)


@contextmanager
def _dataset(runner: Runner, study: list[Unit], coco: Path | None) -> Iterator[Path]:
    """The given dataset, or the sample converted into a folder that is removed afterwards."""
    if coco is not None:
        yield coco
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "coco"
        if not all(runner.place.done(unit) for unit in study):
            try:
                runner.must("convert", {"raw": str(SAMPLE), "out": str(out)})
            except DescryError as error:
                runner.say(f"study: no dataset, so its runs cannot be done: {error}")
                runner.left |= {f"{u.piece}/{u.name}": str(error) for u in study}
                study.clear()
        yield out


def wanted_pieces(text: str) -> list[str]:
    """Names of pieces, checked."""
    pieces = [piece.strip() for piece in text.split(",")]
    unknown = [piece for piece in pieces if piece not in PIECES]
    if unknown:
        raise DescryError(f"--pieces {text}: {unknown[0]!r} is none of {', '.join(PIECES)}")
    return pieces


def wanted_batches(text: str) -> tuple[tuple[int, int], ...]:
    """``512:16,800:8`` as ((512, 16), (800, 8))."""
    pairs = []
    for part in text.split(","):
        side, _, images = part.partition(":")
        if not (side.isdecimal() and images.isdecimal() and int(side) >= 32 and int(images) >= 1):
            raise DescryError(
                f"--batches {text}: write side:images, side at least 32, as in 512:16,800:8"
            )
        pairs.append((int(side), int(images)))
    return tuple(pairs)
