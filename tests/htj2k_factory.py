"""Pictures in HTJ2K, and how their files in tests/htj2k were made.

``python tests/htj2k_factory.py`` writes them anew. It needs `imagecodecs` (2026.3.6, with OpenJPH
0.26.3) and ``ojph_compress`` (openjph-tools 0.9.0 of Debian), neither of which the tests need: the
reader is OpenJPEG. The pictures are computed, so the files are under the licence of this project.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dicom_factory import image_dataset
from pydicom import uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

FOLDER = Path(__file__).parent / "htj2k"
ROWS, COLUMNS = 75, 93  # neither is a multiple of a code-block, nor even


@dataclass(frozen=True)
class Sample:
    """A picture and how it is coded."""

    pixels: np.ndarray
    syntax: uid.UID
    photometric: str = "MONOCHROME2"
    bits: int = 0  # stored; 0: as allocated
    step: float = 0.0  # of the quantiser, relative to the whole range; 0: lossless


def picture(bits: int, shift: int = 0) -> np.ndarray:
    """A ramp, a square with sharp edges and a patch of all values, (75, 93), 0 to 2**bits - 1."""
    y, x = np.mgrid[:ROWS, :COLUMNS].astype(np.uint64)
    grey = (x + y + shift) * (2**bits - 1) // (ROWS + COLUMNS - 2 + shift)
    grey[10:30, 20:50] = 0
    grey[15:25, 30:40] = 2**bits - 1
    scattered = ((x * 7919 + y * 104729 + shift) * 2654435761 >> 13) % 2**bits
    grey[40:60, 50:80] = scattered[40:60, 50:80]
    return grey


GREY8 = picture(8).astype(np.uint8)
GREY16 = picture(16).astype(np.uint16)
GREY12 = picture(12).astype(np.uint16)
SIGNED16 = (GREY16.astype(int) - 2**15).astype(np.int16)
RGB8 = np.dstack([picture(8, shift) for shift in (0, 9, 30)]).astype(np.uint8)
SAMPLES = {
    "grey8": Sample(GREY8, uid.HTJ2KLossless),
    "grey16": Sample(GREY16, uid.HTJ2KLossless),
    "grey12": Sample(GREY12, uid.HTJ2KLossless, bits=12),
    "signed16": Sample(SIGNED16, uid.HTJ2KLossless),
    "rgb8": Sample(RGB8, uid.HTJ2KLossless, "YBR_RCT"),
    "grey16-rpcl": Sample(GREY16, uid.HTJ2KLosslessRPCL),
    "grey8-lossy": Sample(GREY8, uid.HTJ2K, step=2**-8),
    "grey16-lossy": Sample(GREY16, uid.HTJ2K, step=2**-12),
    "rgb8-lossy": Sample(RGB8, uid.HTJ2K, "YBR_ICT", step=2**-8),
}


def path_of(name: str) -> Path:
    """Where the file of a sample lies."""
    return FOLDER / f"{name}.dcm"


def _encode(sample: Sample) -> bytes:
    if sample.bits:
        return _of_12_bits(sample)
    import imagecodecs

    code: bytes = imagecodecs.htj2k_encode(
        sample.pixels,
        reversible=not sample.step,
        level=sample.step or None,
        rgb=sample.pixels.ndim == 3,
        # The order is RPCL in any case; here with the lengths of the tile-parts up front.
        tlm=sample.syntax == uid.HTJ2KLosslessRPCL,
    )
    return code


def _of_12_bits(sample: Sample) -> bytes:
    """By the command line, since imagecodecs takes the depth from the type; in another order."""
    with tempfile.TemporaryDirectory() as folder:
        plain, code = Path(folder, "a.pgm"), Path(folder, "a.j2c")
        header = f"P5 {COLUMNS} {ROWS} {2**sample.bits - 1}\n".encode()
        plain.write_bytes(header + sample.pixels.astype(">u2").tobytes())
        options = ("-reversible", "true", "-prog_order", "LRCP")
        subprocess.run(["ojph_compress", "-i", plain, "-o", code, *options], check=True)
        return code.read_bytes()


def _write(name: str, sample: Sample) -> None:
    elements = {"PhotometricInterpretation": sample.photometric}
    if sample.bits:
        elements["BitsStored"] = sample.bits
    dataset = image_dataset(sample.pixels, **elements)
    dataset.PixelData = encapsulate([_encode(sample)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = sample.syntax
    dataset.save_as(path_of(name), enforce_file_format=True)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, sample in SAMPLES.items():
        _write(name, sample)
