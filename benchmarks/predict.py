"""Images per second of `descry predict` against a plain loop, and its memory over many files.

    python benchmarks/predict.py            # about 4 minutes on two cores of an AMD EPYC

The pictures look like radiographs: 1024 x 1024 pixels of 12 bits in 16, half of them uncompressed
and half in JPEG Lossless (process 14, first order), the commonest coding in hospitals. Some are
made, and linked under many names: each name is read and decoded as a file of its own. The model is
a micro ViT with ACP and CAT that sees 224 pixels; its weights are random.

The plain loop does what one would write first: `pydicom.dcmread`, modality LUT and window,
scaling to [0, 1], three channels, and one call of the network per picture, with torchvision's own
transform (normalise, then resize) in front of it. It writes a CSV. It has all cores for PyTorch.

Both run in fresh processes in turns, so that a change of the machine's speed meets both. What is
timed is the work after all imports and the loading of the model, in both. Memory is the sum of
the peaks of the parent and of the largest worker, over everything.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import gdcm
import numpy as np
from machine import machine
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset

from pipeline.atomic import write_json
from pipeline.versions import versions

ROOT = Path(__file__).resolve().parents[1]
SIDE, DISTINCT, IMAGE_SIZE = 1024, 16, 224
FOUND = 10  # boxes in the first picture
PACKAGES = ("numpy", "pydicom", "python-gdcm", "torch", "torchvision", "opencv-python-headless")


def radiograph(number: int) -> np.ndarray:
    """Smooth shades with grain, 12 bits in 16, (SIDE, SIDE)."""
    rng = np.random.default_rng(number)
    shades = cv2.resize(
        rng.normal(2000, 600, (16, 16)).astype(np.float32),
        (SIDE, SIDE),
        interpolation=cv2.INTER_CUBIC,
    )
    return np.clip(shades + rng.normal(0, 12, (SIDE, SIDE)), 0, 4095).astype(np.uint16)


def write_radiograph(path: Path, pixels: np.ndarray) -> None:
    """An uncompressed DICOM file."""
    dataset = Dataset()
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, name, uid.generate_uid())
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def compress(path: Path) -> None:
    """Turn a file into JPEG Lossless, in place, with GDCM's encoder."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    change = gdcm.ImageChangeTransferSyntax()
    target = gdcm.TransferSyntax.GetTSType(str(uid.JPEGLosslessSV1))
    change.SetTransferSyntax(gdcm.TransferSyntax(target))
    writer = gdcm.ImageWriter()
    packed = path.with_suffix(".packed")
    writer.SetFileName(str(packed))
    done = reader.Read()
    change.SetInput(reader.GetImage())
    done = done and change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not (done and writer.Write()):
        raise SystemExit("GDCM does not encode JPEG Lossless here")
    packed.replace(path)


def make_model(path: Path) -> None:
    """A micro ViT with ACP and CAT and random weights, and a threshold that a few boxes reach."""
    import torch

    from pipeline.data.intensity import Intensity
    from pipeline.models.build import build_detector
    from pipeline.models.params import DetectorSpec
    from pipeline.models.saved import SavedModel

    torch.manual_seed(0)
    spec = DetectorSpec(
        backbone="vit",
        size="micro",
        num_classes=1,
        fpn_channels=64,
        anchor_scale=2.0,
        score_threshold=0.0,
        pool_layers=2,
        concepts=16,
    )
    about = {
        "categories": [[1, "opacity"]],
        "intensity": Intensity().to_dict(),
        "image_size": IMAGE_SIZE,
        "score_threshold": 0.0,
        "dataset": "none",
    }
    model = SavedModel(build_detector(spec), spec, about)
    (found,) = model.detect([(radiograph(0) >> 4).astype(np.uint8)])
    model.spec = replace(spec, score_threshold=float(found.scores[FOUND]))
    model.save(path)


def plain_loop(folder: Path, out: Path, model: Path) -> tuple[float, int]:
    """Seconds and detections of the obvious loop."""
    import torch
    from pydicom.pixels import apply_modality_lut, apply_voi_lut
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    from pipeline.models.saved import SavedModel

    saved = SavedModel.load(model)
    detector, mean, std = saved.detector, list(saved.spec.mean), list(saved.spec.std)
    detector.transform = GeneralizedRCNNTransform(IMAGE_SIZE, IMAGE_SIZE, mean, std)
    start, rows = time.perf_counter(), []
    with torch.inference_mode():
        for path in sorted(folder.iterdir()):
            dataset = dcmread(path)
            values = apply_modality_lut(dataset.pixel_array, dataset)
            grey = np.asarray(apply_voi_lut(values, dataset), dtype=np.float32)
            grey = (grey - grey.min()) / (grey.max() - grey.min())
            if dataset.PhotometricInterpretation == "MONOCHROME1":
                grey = 1 - grey
            (found,) = detector([torch.from_numpy(grey).expand(3, -1, -1)])
            for box, score in zip(found["boxes"].tolist(), found["scores"].tolist(), strict=True):
                rows.append([path.name, *box, score])
    with out.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return time.perf_counter() - start, len(rows)


def ours(folder: Path, out: Path, model: Path, overlays: str) -> tuple[float, int]:
    """Seconds and detections of `descry predict`."""
    from pipeline.models.saved import SavedModel
    from pipeline.predict.batches import share_cores
    from pipeline.predict.options import Options
    from pipeline.predict.run import predict_folder

    workers, device = share_cores("cpu", -1)
    options = Options(overlays=overlays, workers=workers)
    loaded = SavedModel.load(model)
    start = time.perf_counter()
    counts = predict_folder(folder, out, loaded, options=options, device=device).counts
    if counts["failed"] or counts["skipped"]:
        raise SystemExit(f"not a measurement: {counts}")
    return time.perf_counter() - start, counts["detections"]


class Peaks:
    """Largest resident memory of this process and of its children, asked for now and then.

    The kernel's own sum for children will not do: it counts what they were before they became
    another program, which is as large as this process. Met in that moment, they are left out.
    """

    def __init__(self) -> None:
        self.by_process: dict[str, int] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(0.1)

    def look(self) -> None:
        """Read the high-water marks of all that live."""
        for process in ["self", *_children()]:
            with suppress(OSError, ValueError, IndexError):
                if process != "self" and _command(process) == _command("self"):
                    continue
                status = Path(f"/proc/{process}/status").read_text()
                peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
                if "python" in status.split("Name:")[1].split()[0]:
                    self.by_process[process] = max(peak, self.by_process.get(process, 0))

    def report(self) -> dict[str, int]:
        """MiB of the parent, and of the largest worker."""
        self.look()
        workers = [peak for process, peak in self.by_process.items() if process != "self"]
        return {"parent": self.by_process["self"], "largest worker": max(workers, default=0)}


def _command(process: str) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def _children() -> list[str]:
    with suppress(OSError):
        found = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
        return " ".join(found).split()
    return []


def measure(what: str, folder: Path, out: Path, model: Path) -> dict[str, Any]:
    """One run in this process, which must be fresh."""
    files, peaks = len(list(folder.iterdir())), Peaks()
    if what == "plain":
        seconds, found = plain_loop(folder, out, model)
    else:
        seconds, found = ours(folder, out, model, what)
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    processor = sum(used.ru_utime + used.ru_stime for used in (own, children))
    return {
        "files": files,
        "detections": found,
        "seconds": round(seconds, 2),
        "images per second": round(files / seconds, 2),
        "processor seconds, with start": round(processor, 1),
        "peak memory in MiB": peaks.report(),
    }


def fresh(what: str, folder: Path, work: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        command = [sys.executable, __file__, "--measure", what, str(folder), place, str(work)]
        free = {name: v for name, v in os.environ.items() if name != "OMP_NUM_THREADS"}
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=free)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def link(originals: list[Path], folder: Path, files: int) -> Path:
    """A folder of so many names."""
    folder.mkdir()
    for number in range(files):
        os.link(originals[number % len(originals)], folder / f"{number:06d}.dcm")
    return folder


def compare(originals: list[Path], work: Path, files: int, rounds: int) -> dict[str, Any]:
    """Both in turns; the ratio of the medians."""
    folder = link(originals, work / "speed", files)
    kinds = {"plain": "plain loop", "none": "descry", "found": "descry with overlays"}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds.values()}
    for _ in range(rounds):
        for what, name in kinds.items():
            runs[name].append(fresh(what, folder, work))
    speed = {
        name: statistics.median(run["images per second"] for run in done)
        for name, done in runs.items()
    }
    ratio = {
        name: round(speed[name] / speed["plain loop"], 2) for name in speed if name != "plain loop"
    }
    return {"images per second, median": speed, "times the plain loop": ratio, "runs": runs}


def memory(originals: list[Path], work: Path, few: int, many: int) -> dict[str, Any]:
    """Peak memory over few and over many files."""
    runs = [fresh("found", link(originals, work / f"m{n}", n), work) for n in (few, many)]
    peaks = [sum(run["peak memory in MiB"].values()) for run in runs]
    return {"ratio": round(peaks[1] / peaks[0], 3), "sum in MiB": peaks, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs=2, default=[50, 5000], metavar=("FEW", "MANY"))
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/predict.json")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, folder, place, work = given.measure
        found = measure(what, Path(folder), Path(place) / "out", Path(work) / "model.safetensors")
        print(json.dumps(found))
        return
    result: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    result |= {"what": "inference on folders of radiographs", "machine": machine()}
    result |= {"versions": versions(PACKAGES)}
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        make_model(work / "model.safetensors")
        (work / "originals").mkdir()
        originals = [work / "originals" / f"{number}.dcm" for number in range(DISTINCT)]
        for number, path in enumerate(originals):
            write_radiograph(path, radiograph(number))
            if number % 2:
                compress(path)
        if given.only != "memory":
            result["speed"] = compare(originals, work, given.files, given.rounds)
        if given.only != "speed":
            result["memory"] = memory(originals, work, *given.memory)
    write_json(given.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
