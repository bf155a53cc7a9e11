"""Draw sample_cheng/: six files with the structure of Cheng's dataset and made-up pixels.

The published slices are not needed to try the converter, only their structure: MATLAB v7.3
(HDF5 behind a 512-byte header), a group ``cjdata``, arrays stored columns first. The pixels are
an ellipse with smooth noise and a bright, blurred blob: a phantom, no patient's image.

    python datasets/brain_tumor/make_sample_cheng.py
"""

import math
from pathlib import Path

import h5py
import numpy as np
from scipy import ndimage

FOLDER = Path(__file__).parent / "sample_cheng" / "brainTumorDataPublic_1766"
# number: (side, patient, label, centre x, centre y, radius x, radius y), in pixels
SLICES = {
    1: (512, "100360", 1, 176, 175, 57, 45),
    2: (512, "100360", 1, 330, 141, 36, 30),
    3: (512, "100361", 2, 389, 192, 39, 40),
    4: (512, "100361", 2, 362, 263, 30, 33),
    5: (256, "100362", 3, 107, 154, 12, 10),
    6: (256, "100362", 3, 112, 114, 20, 23),
}
HEADER = "MATLAB 7.3 MAT-file, Platform: none, Created on: synthetic sample HDF5 schema 1.00 ."


def draw(number: int) -> dict[str, np.ndarray]:
    """Arrays of one file, in displayed rows and columns."""
    side, _, _, cx, cy, rx, ry = SLICES[number]
    y, x = np.mgrid[:side, :side]
    noise = ndimage.gaussian_filter(np.random.default_rng(number).normal(size=(side, side)), 3)
    head = np.hypot((x - side / 2) / (0.40 * side), (y - side / 2) / (0.46 * side)) < 1
    blob = np.hypot((x - cx) / rx, (y - cy) / ry) <= 1
    tissue = head * (1100 + 2600 * noise) + 1300 * ndimage.gaussian_filter(blob * 1.0, 2)
    angles = np.arange(24) * 2 * math.pi / 24
    border = np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)  # (24, 2)
    # Steps of 16: twelve-bit values, as scanners give them, that compress to a small file.
    image = (np.clip(tissue, 0, 4080) // 16 * 16).astype(np.int16)
    return {"image": image, "tumorMask": blob.astype(np.uint8), "tumorBorder": border}


def write(number: int, path: Path) -> None:
    """Write one file as MATLAB would."""
    _, patient, label, *_ = SLICES[number]
    arrays = draw(number)
    with h5py.File(path, "w", userblock_size=512) as file:
        data = file.create_group("cjdata")
        data.attrs["MATLAB_class"] = np.bytes_("struct")
        _put(data, "PID", np.array([[ord(c)] for c in patient], dtype=np.uint16), "char")
        _put(data, "label", np.array([[float(label)]]), "double")
        _put(data, "image", arrays["image"].T, "int16")
        _put(data, "tumorBorder", arrays["tumorBorder"].reshape(1, -1), "double")
        _put(data, "tumorMask", arrays["tumorMask"].T, "logical")
    with path.open("r+b") as stream:
        stream.write(HEADER.encode().ljust(116) + bytes(8) + b"\x00\x02IM")


def _put(group: h5py.Group, name: str, values: np.ndarray, kind: str) -> None:
    packed = {"compression": "gzip", "compression_opts": 9} if values.size > 1000 else {}
    field = group.create_dataset(name, data=values, **packed)
    field.attrs["MATLAB_class"] = np.bytes_(kind)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for one in SLICES:
        write(one, FOLDER / f"{one}.mat")
