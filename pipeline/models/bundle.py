"""A model as a MONAI bundle: a folder that MONAI's tools read, check and run.

``models/model.pt`` are the weights (a state dictionary of tensors), ``configs/metadata.json`` says
what goes in and comes out, ``configs/inference.json`` builds the network and looks at a folder
(`pipeline.stages.bundle`), ``configs/model.json`` holds what a model file says of itself
(`pipeline.models.storage`). Running it needs MONAI and this package. See the MONAI Bundle
Specification, docs.monai.io.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import __version__
from pipeline.atomic import replacing, write_json
from pipeline.errors import DescryError
from pipeline.models import storage
from pipeline.models.build import build_detector
from pipeline.models.detector import Detector
from pipeline.models.saved import SavedModel
from pipeline.versions import version_of
from pipeline.work.workspace import Kind, open_workspace

FORMAT = "descry bundle 1"  # the value of metadata.json's "format"
BUNDLE = Kind("a bundle", "configs/metadata.json", FORMAT)
_ANY = "*"  # a size that MONAI's specification leaves open
_INFERENCE = {
    "imports": ["$import torch"],
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/images'",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "model": "$@bundle_root + '/configs/model.json'",
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "network_def": {"_target_": "pipeline.models.bundle.network", "about": "@model"},
    "network": "$@network_def.to(@device)",
    "inferer": {"_target_": "monai.inferers.SimpleInferer"},
    "dataset": {"_target_": "pipeline.stages.bundle.Folder", "folder": "@dataset_dir"},
    "evaluator": {
        "_target_": "pipeline.stages.bundle.Inference",
        "network": "@network",
        "about": "@model",
        "weights": "@ckpt_path",
        "dataset": "@dataset",
        "inferer": "@inferer",
        "output_dir": "@output_dir",
    },
    "run": ["$@evaluator.run()"],
}


def write(model: SavedModel, out: Path) -> None:
    """Write a model as a bundle; the folder is complete or absent.

    Raises
    ------
    DescryError
        When `out` holds anything but a former bundle, or cannot be written.
    """
    weights = {name: value.detach().cpu() for name, value in model.detector.state_dict().items()}
    header = {
        "format": storage.FORMAT,
        "version": __version__,
        "about": {**model.meta, "detector": asdict(model.spec)},
    }
    with open_workspace(out, BUNDLE) as space:
        folder = space.partial
        write_json(folder / "configs/metadata.json", metadata(model))
        write_json(folder / "configs/inference.json", _INFERENCE)
        write_json(folder / "configs/model.json", header)
        with replacing(folder / "models/model.pt", "wb") as stream:
            torch.save(weights, stream)
        with replacing(folder / "docs/README.md") as stream:
            stream.write(_readme(model))
        with replacing(folder / "docs/license.txt") as stream:
            stream.write(_terms(model))
        space.publish()


def network(about: str) -> Detector:
    """The detector that a bundle's model.json describes, without its weights."""
    header = storage.parse_header(Path(about), Path(about).read_text(encoding="utf-8"))
    said = storage.check_about(Path(about), header.get("about"), str(header.get("version", "?")))
    return build_detector(said.detector).eval()


def model_of(detector: Detector, about: str, weights: str) -> SavedModel:
    """A bundle's model, with its weights loaded into `detector`.

    Raises
    ------
    DescryError
        When the weights cannot be read or are another detector's.
    """
    place, device = Path(weights), next(detector.parameters()).device
    meta = json.loads(Path(about).read_text(encoding="utf-8"))["about"]
    spec = storage.check_about(Path(about), meta, __version__).detector
    try:
        state: Mapping[str, Tensor] = torch.load(place, map_location=device, weights_only=True)
        detector.load_state_dict(state)
    except Exception as error:  # torch.load documents no set of exceptions
        raise DescryError(f"{weights}: not the weights of this bundle; export it again") from error
    del meta["detector"]
    model = SavedModel(detector, spec, meta)
    with place.open("rb") as stream:
        model.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return model


def metadata(model: SavedModel) -> dict[str, Any]:
    """What metadata.json says: the specification's mandatory keys, and what is known besides."""
    side, names = model.image_size, [name for _, name in model.categories]
    modality = ", ".join(model.meta.get("modality") or ()) or "n/a"
    return {
        "format": FORMAT,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by descry {__version__}"},
        "monai_version": version_of("monai"),
        "pytorch_version": torch.__version__,
        "numpy_version": version_of("numpy"),
        "optional_packages_version": {"descry": __version__},
        "required_packages_version": {"descry": __version__},
        "task": f"Detection of {', '.join(names)}",
        "description": f"{model.spec.backbone} detector with head {model.spec.head}, trained on "
        f"{model.trained_on}",
        "authors": "whoever trained it with descry",
        "copyright": "see docs/license.txt",
        "data_source": model.trained_on,
        "data_type": "DICOM or ordinary images",
        "intended_use": str(model.meta.get("intended_use", "")),
        "eval_metrics": model.meta.get("validation") or {},
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": modality,
                    "num_channels": 3,
                    "spatial_shape": [side, side],
                    "dtype": "uint8",
                    "value_range": [0, 255],
                    "is_patch_data": False,
                    "channel_def": {"0": "red", "1": "green", "2": "blue; grey is repeated"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "tuples",
                    "format": "points",
                    "modality": "n/a",
                    "num_channels": 6,
                    "spatial_shape": [_ANY],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {
                        **{
                            str(i): f"boxes: {c}, px"
                            for i, c in enumerate(("x1", "y1", "x2", "y2"))
                        },
                        "4": "scores",
                        "5": "labels: place, from 0, in " + ", ".join(names),
                    },
                }
            },
        },
    }


def _readme(model: SavedModel) -> str:
    names = ", ".join(name for _, name in model.categories)
    figures = model.meta.get("validation") or {}
    ap = figures.get("AP")
    shown = "none recorded" if ap is None else f"AP {ap:.3f}, AP50 {figures['AP50']:.3f}"
    return f"""# Detection of {names}

{model.meta.get("intended_use", "")}

* Trained on: {model.trained_on}
* Validation: {shown}
* Detector: {model.spec.backbone} ({model.spec.size}), head {model.spec.head}, {model.image_size} px

Needs `pip install descry fire`. In this folder,

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES \\
        --output_dir RESULTS

looks at every DICOM file and image below IMAGES and writes what `descry predict` writes: tables,
overlays, a report and an account of every file.
"""


def _terms(model: SavedModel) -> str:
    return (
        "The licence of these weights is for whoever trained them to choose.\n"
        f"Data: {model.meta.get('data_terms') or model.trained_on + ', terms not recorded'}\n"
        f"{model.meta.get('intended_use', '')}\n"
    )
