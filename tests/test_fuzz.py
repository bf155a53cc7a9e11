"""Two thousand damaged and malicious DICOM files: the run goes on, bounded, and lists them all."""

import json
import random
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import image_dataset, save
from predict_factory import rows_of
from pydicom import uid

from pipeline.dicom.read.probe import SYNTAXES, sample_file

FILES = 2000
MIB = 2**20
GROWTH_MIB, WORKER_MIB = 150, 2200  # an unbounded bomb would take 6 GiB
SIZES = (b"\x28\x00\x10\x00", b"\x28\x00\x11\x00")  # Rows, Columns, little endian
ABSURD = (0, 1, 255, 32768, 65535)


def sources():
    """Small files of every transfer syntax and several kinds of picture."""
    rng = np.random.default_rng(0)
    made = [sample_file(syntax) for syntax in SYNTAXES]
    grey = rng.integers(0, 4096, (12, 10)).astype(np.uint16)
    rgb = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    stack = rng.integers(0, 256, (3, 12, 10), dtype=np.uint8)
    table = np.arange(256, dtype=np.uint16).tobytes()
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = table
    window = {"WindowCenter": [2000, 100], "WindowWidth": [800, 50], "RescaleSlope": 2}
    for dataset, syntax in (
        (image_dataset(grey, BitsStored=12, **window), uid.ImplicitVRLittleEndian),
        (image_dataset(grey, BitsStored=12, **window), uid.RLELossless),
        (image_dataset(rgb), uid.ExplicitVRLittleEndian),
        (image_dataset(stack, 3), uid.RLELossless),
        (image_dataset(stack, 3), uid.JPEGLSLossless),
        (image_dataset(stack[0], **palette), uid.ExplicitVRLittleEndian),
    ):
        stream = BytesIO()
        save(dataset, stream, syntax)
        made.append(stream.getvalue())
    return made


def flip(content, rng):
    """Up to eight bits, more often in the header than behind it."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        end = len(changed) if rng.random() < 0.5 else min(len(changed), 700)
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(content, rng):
    return content[: rng.randrange(len(content))]


def grow(content, rng):
    """Absurd rows and columns, in the header and in the codestream."""
    changed = bytearray(content)
    for tag in SIZES:
        place = changed.find(tag)
        if place > 0 and place + 10 <= len(changed):
            changed[place + 8 : place + 10] = struct.pack("<H", rng.choice(ABSURD))
    for marker, at in (
        (b"\xff\x4f\xff\x51", 8),
        (b"\xff\xc3", 5),
        (b"\xff\xf7", 5),
        (b"\xff\xc1", 5),
    ):
        place = changed.find(marker)
        if place > 0 and rng.random() < 0.8:
            changed[place + at : place + at + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\0\0\xff\xff")
            )
    return bytes(changed)


def lengthen(content, rng):
    """An absurd length of some element, or of some fragment."""
    changed = bytearray(content)
    place = rng.randrange(132, len(changed) - 4) // 2 * 2
    found = changed.find(rng.choice((b"OB\0\0", b"OW\0\0", b"\xfe\xff\x00\xe0", b"SQ\0\0")))
    place = found + 4 if found > 0 and rng.random() < 0.7 else place
    length = rng.choice((0, 1, 0x7FFFFFFE, 0xFFFFFFFE, 0xFFFFFFFF))
    changed[place : place + 4] = struct.pack("<I", length)
    return bytes(changed)


def splice(content, rng):
    """A piece taken out, doubled or replaced by noise."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randint(1, 64))
    middle = rng.choice((b"", content[start:end] * 2, rng.randbytes(end - start)))
    return content[:start] + middle + content[end:]


MUTATIONS = (flip, truncate, grow, lengthen, splice)


def bombs():
    """A little that unpacks to a lot."""
    deflated = sample_file(uid.DeflatedExplicitVRLittleEndian)
    (length,) = struct.unpack("<I", deflated[140:144])
    start = 144 + length
    plain = zlib.decompress(deflated[start:], -zlib.MAX_WBITS)
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", 0xFFFFFFFE)
    head = plain[: plain.index(b"\xe0\x7f\x10\x00")] + pixels
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    begin = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    yield deflated[:start] + begin + zeros * 128 + packer.flush()  # 2 GiB
    many = bytearray(sample_file(uid.RLELossless))
    for value in (2**31 - 1, 10**9):
        frames = b"\x28\x00\x08\x00IS" + struct.pack("<H", 10) + b"%-10d" % value
        place = many.index(b"\x28\x00\x10\x00")
        yield bytes(many[:place] + frames + many[place:])


def write_all(folder):
    rng, made = random.Random(20), sources()
    every = list(bombs())
    while len(every) < FILES:
        content = made[len(every) % len(made)]
        mutations = rng.choices(MUTATIONS, k=1 + (rng.random() < 0.3))
        for mutate in mutations:
            content = mutate(content, rng) if len(content) > 200 else content
        every.append(content)
    for number, content in enumerate(every):
        (folder / f"{number:04d}").write_bytes(content)


PROGRAM = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from predict_factory import BrightSpots
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder

if __name__ == "__main__":
    def peak(who):
        return resource.getrusage(who).ru_maxrss // 1024

    before = peak(resource.RUSAGE_SELF)
    options = Options(workers=1, batch_size=16, timeout=10, overlays="none")
    source, out = map(Path, sys.argv[1:3])
    counts = predict_folder(source, out, BrightSpots(), options=options).counts
    memory = peak(resource.RUSAGE_SELF) - before, peak(resource.RUSAGE_CHILDREN)
    print(json.dumps({"counts": counts, "memory": memory}))
"""


@pytest.mark.slow
def test_two_thousand_damaged_files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_all(folder)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    arguments = [folder, tmp_path / "out", Path(__file__).parent]
    command = [sys.executable, program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    counts, (growth, worker) = told["counts"], told["memory"]
    assert counts["files"] == FILES
    assert counts["processed"] + counts["skipped"] + counts["failed"] == FILES
    assert min(counts["processed"], counts["failed"]) > FILES // 10
    failures, skipped = (rows_of(tmp_path / "out" / f"{n}.csv") for n in ("failures", "skipped"))
    assert (len(failures), len(skipped)) == (counts["failed"], counts["skipped"])
    assert all(row["kind"] and row["step"] for row in failures + skipped)
    words = "".join(row["message"] for row in failures + skipped)
    assert words.isascii() and words.isprintable()  # nothing is quoted from damaged headers
    assert "internal error" not in {row["kind"] for row in failures}
    assert growth < GROWTH_MIB and worker < WORKER_MIB, (growth, worker)
