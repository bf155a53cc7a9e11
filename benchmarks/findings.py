r"""The boxes of NIH ChestX-ray14 in the four kinds that 880 films can teach, as a COCO folder.

Eight classes of about a hundred boxes are too few each, and radiologists tell four of them from
one another by more than the film: they become one. Splits stay as the source has them.

    python benchmarks/findings.py --source FOLDER --out RAW
    descry convert nih_findings --raw RAW --out COCO -S augment.nih_findings=xray \
        -S 'convert.nih_findings={group: "([0-9]{8})_"}'
"""

import argparse
import json
from pathlib import Path

from pipeline.atomic import write_json

KINDS = {
    "enlarged heart": ("Cardiomegaly",),
    "opacity": ("Atelectasis", "Effusion", "Infiltrate", "Infiltration", "Pneumonia"),
    "mass or nodule": ("Mass", "Nodule"),
    "pneumothorax": ("Pneumothorax",),
}
KIND_OF = {name: i for i, names in enumerate(KINDS.values(), 1) for name in names}


def grouped(tree: dict) -> dict:
    """A COCO tree with its categories replaced by `KINDS`."""
    kind = {category["id"]: KIND_OF[category["name"]] for category in tree["categories"]}
    boxes = [{**a, "category_id": kind[a["category_id"]]} for a in tree["annotations"]]
    categories = [{"id": i, "name": name} for i, name in enumerate(KINDS, 1)]
    return {**tree, "annotations": boxes, "categories": categories}


def main() -> None:
    """Write RAW: the JSON files anew, and a link to the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="COCO files and images/")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    for path in sorted(given.source.glob("*.json")):
        write_json(given.out / path.name, grouped(json.loads(path.read_text())))
    (given.out / "images").symlink_to((given.source / "images").resolve())


if __name__ == "__main__":
    main()
