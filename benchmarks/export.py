"""What leaving PyTorch costs and gains: AP on a validation split, time of a picture, size.

    python benchmarks/export.py             # BCCD's sample and the model of the zoo

The model as it is, as ONNX, and as ONNX in 8 bits (dynamic; static with ranges from pictures of
the training split) look at all pictures of the split. Times are those of a picture in a batch of
one on one thread, decoding left out: the forms take turns, picture by picture, so that whatever
else the machine does meets all of them; the median of the pictures counts, and of the ratios to
PyTorch median and quartiles.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from pipeline.atomic import write_json
from pipeline.config import load_params
from pipeline.data.index import CocoIndex
from pipeline.data.pixels import load_pixels
from pipeline.evaluate.operating_point import validate
from pipeline.models.exported import open_model
from pipeline.models.inference import detect_split
from pipeline.models.saved import SavedModel
from pipeline.stages.convert import convert
from pipeline.stages.export import MOST, run
from pipeline.versions import versions

ROOT = Path(__file__).parents[1]
QUARTILES = (0.5, 0.25, 0.75)
FORMS = {"onnx": "", "onnx int8 dynamic": "dynamic", "onnx int8 static": "static"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "zoo/bccd_cells/model.safetensors")
    parser.add_argument("--coco", type=Path, help="converted dataset; default: BCCD's sample")
    parser.add_argument("--rounds", type=int, default=1, help="over all pictures, for the times")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/export.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        coco = chosen.coco or folder / "coco"
        if chosen.coco is None:
            convert(load_params(ROOT / "params.yaml"), "ccellbio", None, coco)
        models = exported(chosen.model, calibration(coco, folder / "seen"), folder)
        index = CocoIndex(coco / "annotations/val.json", coco / "images")
        forms = [
            {"form": form, "MiB": size(form, chosen.model, folder), **measured(model, index)}
            for form, model in models.items()
        ]
        for one, times in zip(
            forms, timed(list(models.values()), index, chosen.rounds), strict=True
        ):
            one |= times
            print(one)
    about = {"machine": machine(), "versions": versions(("torch", "onnx", "onnxruntime"))}
    write_json(chosen.out, {**about, "model": models["pytorch"].sha256, "forms": forms})


def calibration(coco: Path, out: Path) -> Path:
    """A folder with some pictures of the training split."""
    out.mkdir()
    index = CocoIndex(coco / "annotations/train.json", coco / "images")
    for i in range(min(MOST, len(index))):
        shutil.copy(index.file(i), out)
    return out


def exported(path: Path, pictures: Path, folder: Path) -> dict[str, SavedModel]:
    """The model and its exports, each as `descry predict` opens it."""
    models = {"pytorch": SavedModel.load(path)}
    for form, int8 in FORMS.items():
        out = folder / f"{form}.onnx"
        print(form, run(path, out, "onnx", pictures, int8=int8))
        models[form] = open_model(out)
    return models


def size(form: str, model: Path, folder: Path) -> float:
    """Of a form's file, in MiB."""
    path = folder / f"{form}.onnx" if form in FORMS else model
    return round(path.stat().st_size / 2**20, 2)


def measured(model: SavedModel, index: CocoIndex) -> dict[str, Any]:
    """AP on the split."""
    scores, _ = validate(index.path, detect_split(model, index, batch_size=1))
    return {name: scores[name] for name in ("AP", "AP50", "AP75", "images", "objects")}


def timed(models: list[SavedModel], index: CocoIndex, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a picture for each model, and how many times as fast as the first."""
    pictures = [load_pixels(index, i, models[0].intensity) for i in range(len(index))]
    times = np.zeros((len(models), rounds * len(pictures)))
    for model in models:
        model.detect(pictures[:1])  # the first call of each prepares it
    for at in range(times.shape[1]):
        for row, model in enumerate(models):
            begun = time.perf_counter()
            model.detect([pictures[at % len(pictures)]])
            times[row, at] = 1000 * (time.perf_counter() - begun)
    return [
        {
            "ms": round(float(np.median(row)), 2),
            "times as fast": [round(float(q), 2) for q in np.quantile(times[0] / row, QUARTILES)],
        }
        for row in times
    ]


if __name__ == "__main__":
    main()
