"""Folders of runs as the stages write them, with figures chosen by the test."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

DETECTOR = {
    "backbone": "vit",
    "size": "micro",
    "num_classes": 1,
    "fpn_channels": 64,
    "anchor_scale": 2.0,
    "score_threshold": 0.05,
    "nms_threshold": 0.5,
    "max_detections": 100,
    "pool_layers": 2,
    "concepts": 16,
    "placement": "stream",
    "pool_stride": 1,
    "copies": False,
    "width": 0,
    "drop_path": 0.0,
}
FIGURES = {
    "AP": 0.25,
    "AP50": 0.5,
    "AP75": 0.125,
    "AP_small": None,
    "AP_medium": 0.2,
    "AP_large": 0.3,
    "AR1": 0.1,
    "AR10": 0.3,
    "AR100": 0.4,
    "AR_small": None,
    "AR_medium": 0.4,
    "AR_large": 0.4,
    "sensitivity_at_1fp": 0.5,
    "froc_score": 0.45,
    "image_auc": 0.75,
    "image_sensitivity": 0.8,
    "image_specificity": 0.5,
    "sensitivity": 0.6,
    "precision": 0.5,
    "fp_per_image": 0.75,
    "ece": 0.1,
    "score_threshold": 0.31,
    "images": 8,
    "objects": 5,
    "objects_small": 0,
    "objects_medium": 2,
    "objects_large": 3,
}
ERRORS = ("localisation", "class", "both", "duplicate", "background", "missed")


def about_of(dataset, detector=(), **changes):
    """`train/about.json`."""
    return {
        "dataset": dataset,
        "categories": [[1, "thing <b>"]],
        "detector": DETECTOR | dict(detector),
        "epochs": 12,
        "image_size": 64,
        "seed": 0,
        "score_threshold": 0.31,
        "score_threshold_source": "highest F1 on the validation split",
        "training_images": 20,
        "training_annotations_sha256": "ab" * 32,
        "intensity": {"window": "first"},
        "training": {
            "batch_size": 8,
            "augment": "xray",
            "train_sizes": [],
            "lr": 0.001,
            "device": "cpu",
            "processes": 1,
        },
        "modality": [],
        "versions": {"descry": "0.1.0", "python": "3.11.7"},
    } | changes


def details_of(dataset, figures=()):
    """`evaluate/details.json`."""
    shown = FIGURES | dict(figures)
    points = [0.125, 0.25, 0.5, 1, 2, 4, 8]
    return {
        "ground_truth": {
            "name": dataset,
            "sha256": "cd" * 32,
            "images": 8,
            "negatives": 3,
            "objects": 5,
            "crowds": 0,
            "units": 6,
        },
        "operating_point": {"threshold": 0.31, "source": "highest F1 on the validation split"},
        "figures": shown,
        "at_operating_point": {
            "iou": 0.5,
            "true_positives": 3,
            "false_positives": 6,
            "missed": 2,
            "sensitivity": 0.6,
            "precision": 0.333333,
            "f1": 0.428571,
            "fp_per_image": 0.75,
        },
        "image_level": {
            "positives": 5,
            "negatives": 3,
            "auc": shown["image_auc"],
            "sensitivity": 0.8,
            "specificity": 0.5,
        },
        "froc": {
            "points": [
                {"fp_per_image": x, "sensitivity": 0.5, "threshold": 0.4, "interpolated": 0.5}
                for x in points
            ],
            "score": 0.45,
        },
        "calibration": {"ece": 0.1, "detections": 40, "bins": 10, "iou": 0.5},
        "intervals": {
            "level": 0.95,
            "resamples": 1000,
            "seed": 0,
            "unit": "patient",
            "units": 6,
            "figures": {
                name: None if shown[name] is None else [0.1, 0.6]
                for name in ("AP", "AP50", "AP75", "AR100", "sensitivity_at_1fp", "image_auc")
            },
        },
        "errors": {
            kind: {"count": 2, "count_at_operating_point": 1, "delta_AP50": 0.05} for kind in ERRORS
        },
        "not_available": {},
    }


CSVS = {
    "per_class.csv": (
        "class,objects,AP,AP50,AP75,AR100,sensitivity,precision,f1",
        "thing <b>,5,0.25,0.5,0.125,0.4,0.6,0.5,",
    ),
    "precision_recall.csv": (
        "class,recall,precision",
        "thing <b>,0.0,1.0",
        "thing <b>,0.5,0.6",
        "thing <b>,1.0,0.0",
    ),
    "f1_confidence.csv": (
        "class,threshold,precision,recall,f1",
        "all,0.0,0.1,1.0,0.2",
        "all,1.0,,0.0,0.0",
        "thing <b>,0.0,0.1,1.0,0.2",
    ),
    "confusion.csv": (
        "true,predicted,count",
        "thing <b>,thing <b>,3",
        "thing <b>,background,2",
        "background,thing <b>,6",
    ),
    "froc.csv": (
        "fp_per_image,sensitivity,threshold",
        "0,0,",
        "0.25,0.4,0.6",
        "2.0,0.8,0.1",
    ),
    "roc.csv": (
        "threshold,false_positive_rate,true_positive_rate",
        ",0,0",
        "0.5,0.5,0.8",
        "0.0,1,1",
    ),
    "calibration.csv": (
        "bin_low,bin_high,count,mean_score,precision",
        "0.0,0.1,30,0.05,0.03",
        "0.1,0.2,0,,",
        "0.5,0.6,10,0.55,0.4",
    ),
    "subgroups.csv": (
        "attribute,value,images,objects,AP,AP50,sensitivity,fp_per_image",
        "size,small,8,0,,,,",
        "view,PA,5,4,0.3,0.6,0.7,0.5",
        "view,AP,3,1,,,0.0,1.0",
    ),
    "gallery/index.csv": (
        "rank,kind,error,image_id,file_name,class,score,iou,picture",
        "1,missed,missed,3,train/c.png,thing <b>,,0.2,0001.png",
        "1,false_positive,background,2,train/b.png,thing <b>,0.9,,0001.png",
        "1,true_positive,,1,train/a.png,thing <b>,0.8,0.9,0001.png",
    ),
}
CONVERSION = {
    "split": "Official splits train, val, test.",
    "splits": {
        name: {"images": n, "negatives": 3, "boxes": 5, "classes": {"thing <b>": 5}}
        for name, n in (("train", 20), ("val", 8), ("test", 8))
    },
    "images": {"in": 37, "out": 36, "dropped": {"unreadable": 1}},
    "boxes": {"in": 15, "out": 15, "clipped": 0, "dropped": {}},
    "notes of the converter": [],
}


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make_run(runs: Path, dataset="rsna", *, figures=(), detector=(), **about) -> Path:
    """One dataset's training and evaluation in a folder of runs; returns the folder."""
    train, evaluate = runs / dataset / "train", runs / dataset / "evaluate"
    write(train / "about.json", about_of(dataset, detector, **about))
    write(
        train / "history.csv",
        "epoch,loss,classification,box,lr,val_AP,val_AP50\n"
        "1,2.0,1.0,1.0,1e-3,,\n2,1.0,0.5,0.5,1e-4,0.2,0.4\n",
    )
    details = details_of(dataset, figures)
    write(evaluate / "details.json", details)
    write(evaluate / "predictions.json", [])
    for name, lines in CSVS.items():
        write(evaluate / name, "\n".join(lines) + "\n")
    for name in ("pictures/000001.png", "gallery/0001.png"):
        (evaluate / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(evaluate / name)
    plain = evaluate / "pictures/plain/000001.jpg"
    plain.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(plain)
    boxes = [
        {"box": [40, 20, 60, 20], "label": "thing <b>", "class": 0, "score": score}
        for score in (None, 0.75)
    ]
    shown = {"file_name": "a.png", "width": 160, "height": 80, "boxes": boxes}
    write(evaluate / "pictures/boxes.json", {"000001": shown})
    write(runs / "metrics" / f"{dataset}.json", {dataset: details["figures"]})
    return runs


def make_dataset(datasets: Path, name="rsna", notes=()) -> None:
    """The conversion's report and the card of a dataset."""
    conversion = CONVERSION | {"dataset": name, "notes of the converter": list(notes)}
    write(datasets / name / "coco/report.json", conversion)
    card = f"# {name}\n\nSee [the notes](sample/notes.md) and [the source](https://example.org).\n"
    write(
        datasets / name / "README.md", card + "\n<script>alert(1)</script>\n\n|a|b|\n|-|-|\n|1|2|\n"
    )


def rows_of(path: Path):
    with path.open(newline="") as stream:
        return list(csv.reader(stream))
