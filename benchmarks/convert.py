"""Speed and memory of converting data of the size of RSNA's, made by replicating its sample.

    python benchmarks/convert.py --images 1000 26684

A copy of a sample file is a file of its own on the disk: it has another patientId (the first
eight digits are the copy's number) and other pixels, because some steps of its JPEG quantisation
table are raised by one. So nothing is a duplicate, and each costs what a real file costs. 26,684
images take 3.5 GB of input and about 10 GB of output, both removed at the end.

What is measured: images per second; how much of the workers' time (processes x wall clock, from
the first scan to the last report) and of all processor time (start of Python included) passes in
decoding (from the DICOM file to 8-bit pixels) and encoding (to PNG, with writing the file); the
largest memory of the parent and of a worker. About 3 s of processor time are spent on starting
three Python processes, which shows in small runs. Run it on an idle machine.

    python benchmarks/convert.py --annotations 253

measures one COCO file of so many megabytes instead, over 5,000 small pictures: what reading it
takes of memory and processor time, and what the whole conversion takes.
"""

import argparse
import csv
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from PIL import Image

from pipeline.atomic import write_json
from pipeline.convert import open_source
from pipeline.convert.annotated import AnnotatedFolder
from pipeline.convert.engine.report import ConversionSettings
from pipeline.convert.engine.split import Fractions
from pipeline.convert.engine.writer import Conversion
from pipeline.convert.records import Ledger
from pipeline.versions import versions
from pipeline.work.pool import cores

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "datasets" / "rsna" / "sample"
IMAGES = "stage_2_train_images"
TABLES = ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv")
PACKAGES = ("numpy", "pillow", "pydicom", "opencv-python-headless")  # decode and encode
TABLE_MARK = b"\xff\xdb\x00\x43\x00"  # JPEG quantisation table: 67 bytes, 8 bits, number 0
FIRST_STEP = 8  # in zigzag order; the lowest frequencies are left alone
STEPS = 16  # 2 ** 16 variants of one file


def variant(content: bytes, stem: str, number: int) -> tuple[bytes, str]:
    """Content and stem of copy `number` of a DICOM file: other id, other pixels, same size."""
    name = f"{number:08x}{stem[8:]}"
    changed = bytearray(content.replace(stem.encode(), name.encode()))
    table = changed.index(TABLE_MARK) + len(TABLE_MARK)
    for bit in range(STEPS):
        place = table + FIRST_STEP + bit
        changed[place] = min(255, changed[place] + (number >> bit & 1))
    return bytes(changed), name


def rows_by_id(table: Path) -> tuple[list[str], dict[str, list[list[str]]]]:
    """Header and rows of a table of the sample, by patientId."""
    with table.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    found: dict[str, list[list[str]]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(row[1:])
    return header, found


def replicate(sample: Path, raw: Path, images: int) -> None:
    """Write a raw folder of `images` files and both tables."""
    files = [(p.stem, p.read_bytes()) for p in sorted((sample / IMAGES).glob("*.dcm"))]
    (raw / IMAGES).mkdir(parents=True)
    names: list[tuple[str, str]] = []
    for number in range(images):
        stem, content = files[number % len(files)]
        changed, name = variant(
            content, stem, number // len(files) * len(files) + number % len(files)
        )
        (raw / IMAGES / f"{name}.dcm").write_bytes(changed)
        names.append((stem, name))
    for title in TABLES:
        header, rows = rows_by_id(sample / title)
        with (raw / title).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows([name, *row] for stem, name in names for row in rows[stem])


def measure(raw: Path, out: Path, workers: int) -> dict[str, Any]:
    """Convert once, in this process, which must be fresh."""
    start = time.perf_counter()
    source = open_source("rsna", raw)
    settings = ConversionSettings(seed=0, fractions=Fractions(0.15, 0.2), png_level=1)
    conversion = Conversion(source, settings, workers or cores())
    report = conversion.run(out)
    wall = time.perf_counter() - start
    check(report)
    return figures(conversion, report["images"]["out"], wall)


def check(report: dict[str, Any]) -> None:
    """The figures only count if all images were converted, and none twice."""
    copies = sum(report["duplicates"].values())
    if copies or report["images"]["in"] != report["images"]["out"]:
        raise SystemExit(f"not a measurement: {copies} duplicates, images {report['images']}")


def figures(conversion: Conversion, images: int, wall: float) -> dict[str, Any]:
    """Speed, shares and memory."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = sum(usage.ru_utime + usage.ru_stime for usage in (own, workers))
    spent = conversion.spent
    return {
        "images": images,
        "workers": conversion.workers,
        "seconds": round(wall, 1),
        "images per second": round(images / wall, 2),
        "share of workers x wall clock": {
            "decode": round(spent.read / wall / conversion.workers, 4),
            "encode": round(spent.write / wall / conversion.workers, 4),
            "decode and encode": round((spent.read + spent.write) / wall / conversion.workers, 4),
            "busy in any way": round(spent.total / wall / conversion.workers, 4),
        },
        "share of processor time": {
            "decode": round(spent.read_cpu / processor, 4),
            "encode": round(spent.write_cpu / processor, 4),
            "decode and encode": round((spent.read_cpu + spent.write_cpu) / processor, 4),
            "parent": round((own.ru_utime + own.ru_stime) / processor, 4),
        },
        "milliseconds per image": {
            "decode": round(1000 * spent.read_cpu / images, 2),
            "encode": round(1000 * spent.write_cpu / images, 2),
        },
        "peak memory in MiB": {
            "parent": round(own.ru_maxrss / 1024, 1),
            "largest worker": round(workers.ru_maxrss / 1024, 1),
        },
    }


def run(images: int, work: Path, workers: int) -> dict[str, Any]:
    """Replicate, convert in a fresh process, tidy up."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        replicate(SAMPLE, raw, images)
        command = [sys.executable, __file__, "--measure", str(raw), str(out)]
        command += ["--workers", str(workers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        shutil.rmtree(out)
        return json.loads(done.stdout)


def slope(runs: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Bytes of memory per further image, between the smallest and the largest run."""
    few, many = runs[0], runs[-1]
    for who in ("parent", "largest worker"):
        grown = many["peak memory in MiB"][who] - few["peak memory in MiB"][who]
        yield who, round(grown * 2**20 / (many["images"] - few["images"]))


SIDE, PICTURES = 64, 5000  # pixels, files


def annotate(raw: Path, megabytes: int) -> int:
    """Write pictures of noise and a COCO file of boxes; return how many boxes."""
    drawn = np.random.default_rng(0)
    (raw / "images").mkdir(parents=True)
    images = []
    for number in range(PICTURES):
        name = f"{number:06d}.png"
        pixels = drawn.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(raw / "images" / name, compress_level=1)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
    head = json.dumps({"categories": [{"id": 1, "name": "spot"}], "images": images})
    (raw / "annotations").mkdir()
    count, written = 0, len(head)
    with (raw / "annotations" / "all.json").open("w") as stream:
        stream.write(head[:-1] + ', "annotations": [')
        while written < megabytes * 10**6:
            left, top = (drawn.integers(0, 4000, 2) / 100).tolist()
            width, height = (drawn.integers(100, 2400, 2) / 100).tolist()
            box = {"bbox": [left, top, width, height], "area": round(width * height, 4)}
            entry = {"id": count + 1, "image_id": count % PICTURES, "category_id": 1, **box}
            text = ", " * bool(count) + json.dumps({**entry, "iscrowd": 0})
            written, count = written + stream.write(text), count + 1
        stream.write("]}")
    return count


def measure_annotations(raw: Path, out: Path, workers: int) -> dict[str, Any]:
    """Scan, then convert, in this process, which must be fresh."""
    source, ledger = AnnotatedFolder(raw), Ledger()
    boxes = sum(len(record.boxes) for record in source.scan(ledger))
    scanned = resource.getrusage(resource.RUSAGE_SELF)
    settings = ConversionSettings(seed=0, fractions=Fractions(0.15, 0.2), png_level=1)
    report = Conversion(source, settings, workers or cores()).run(out)
    done = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "boxes read": boxes,
        "boxes written": report["boxes"]["out"],
        "scan": {
            "processor seconds": round(scanned.ru_utime + scanned.ru_stime, 1),
            "peak memory in MiB": round(scanned.ru_maxrss / 1024, 1),
        },
        "scan again and convert": {
            "processor seconds of the parent": round(
                done.ru_utime + done.ru_stime - scanned.ru_utime - scanned.ru_stime, 1
            ),
            "peak memory in MiB": round(done.ru_maxrss / 1024, 1),
        },
    }


def run_annotations(megabytes: int, work: Path, workers: int) -> dict[str, Any]:
    """Write the file, read it in a fresh process, tidy up."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        annotations = annotate(raw, megabytes)
        command = [sys.executable, __file__, "--measure", str(raw), str(out)]
        command += ["--workers", str(workers), "--annotations", str(megabytes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        known = {"megabytes": megabytes, "annotations": annotations, "images": PICTURES}
        return known | json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 26684])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/convert.json")
    parser.add_argument("--annotations", type=int, help="megabytes of a COCO file, to measure that")
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        raw, out = given.measure
        how = measure_annotations if given.annotations else measure
        print(json.dumps(how(raw, out, given.workers)))
        return
    if given.annotations:
        print(json.dumps(run_annotations(given.annotations, given.work, given.workers), indent=1))
        return
    runs = [run(images, given.work, given.workers) for images in sorted(given.images)]
    result: dict[str, Any] = {"what": "conversion of replicated RSNA files", "runs": runs}
    result |= {"machine": machine(), "versions": versions(PACKAGES)}
    if len(runs) > 1:
        result["bytes of memory per image"] = dict(slope(runs))
    write_json(given.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
