"""The command line of benchmarks/gpu.py."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from machine import machine

from gpu_pieces import child
from gpu_pieces.runner import Runner
from gpu_pieces.store import FOR_DATA, PACKAGES, ROOT, Place
from gpu_pieces.summary import summary, table
from gpu_pieces.units import FULL, PIECES, TINY, WITH_DATA, Unit, planned
from pipeline.atomic import write_json
from pipeline.errors import DescryError
from pipeline.versions import versions
from pipeline.work.pool import cores

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
    parser.add_argument(
        "--num-shards", type=int, default=1, metavar="N", help="processes that share the units"
    )
    parser.add_argument("--shard", type=int, default=0, metavar="K", help="which, from 0")
    parser.add_argument("--batches", metavar="SIDE:IMAGES,...", help="default: 512:16,800:8")
    parser.add_argument("--coco", type=Path, help="a converted ccellbio; default: the sample's")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    return parser


def _measure(given: argparse.Namespace) -> int:
    pieces = wanted_pieces(given.pieces)
    check_shard(given.shard, given.num_shards, pieces)
    settings = TINY if given.tiny else FULL
    if given.batches:
        settings = replace(settings, batches=wanted_batches(given.batches))
    out = given.out or ROOT / "benchmarks/results" / ("gpu-tiny" if given.tiny else "gpu")
    place = Place(out, {}, machine(), versions((*PACKAGES, *FOR_DATA)))
    runner = Runner(place, given.time_limit, workers=loader_workers(given))
    probe = runner.must("probe", {"device": given.device})
    runner.place = place = replace(place, device=probe["device"])
    everything = planned(settings, probe["families"], given.device)
    units = [unit for unit in everything if unit.piece in pieces]
    _run(runner, units[given.shard :: given.num_shards], given.coco)
    result = summary(place, everything, runner.left, tiny=given.tiny)
    write_json(out / "summary.json", result)
    print(table(result))
    return 1 if result["failed"] else 0


def loader_workers(given: argparse.Namespace) -> int:
    """Loader processes of a training run: its share of the cores, as few as serve a GPU."""
    return 0 if given.device == "cpu" else min(4, max(1, cores() // given.num_shards - 1))


def _run(runner: Runner, units: list[Unit], coco: Path | None) -> None:
    """Do the units; without a dataset those that need none."""
    trained = [unit for unit in units if unit.kind in WITH_DATA and not runner.place.done(unit)]
    with tempfile.TemporaryDirectory() as folder:
        runner.coco = str(coco or Path(folder) / "coco")
        if trained and coco is None:
            try:
                runner.must("convert", {"raw": str(SAMPLE), "out": runner.coco})
            except DescryError as error:
                runner.say(f"no dataset, so nothing is trained on it: {error}")
                runner.left |= {f"{u.piece}/{u.name}": str(error) for u in trained}
                units = [unit for unit in units if unit not in trained]
        runner.run(units)


def wanted_pieces(text: str) -> list[str]:
    """Names of pieces, checked."""
    pieces = [piece.strip() for piece in text.split(",")]
    unknown = [piece for piece in pieces if piece not in PIECES]
    if unknown:
        raise DescryError(f"--pieces {text}: {unknown[0]!r} is none of {', '.join(PIECES)}")
    return pieces


def check_shard(shard: int, num_shards: int, pieces: Sequence[str]) -> None:
    """Refuse a shard that there is not, and to share a device while time is measured."""
    if not 0 <= shard < num_shards:
        raise DescryError(f"--shard {shard}: must be 0 to {num_shards - 1}")
    if num_shards > 1 and "throughput" in pieces:
        raise DescryError(
            f"--num-shards {num_shards}: throughput needs the device for itself; "
            "name the other pieces with --pieces"
        )


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
