r"""k-fold cross-validation of a converted dataset, whose official test split no fold ever sees.

Images of train and val are dealt into k folds by patient (an image without one is its own), those
with a box and those without apart. Dataset i tests on fold i, chooses its operating point on the
next fold and trains on the rest. Each is a converted dataset like any other; afterwards `pool` puts
the detections of all test folds together, so that every image is judged by a model that has not
seen it or its patient.

    python benchmarks/folds.py split --coco COCO --folds 5 --out FOLDS
    for i in 1 2 3 4 5; do
      descry train NAME --coco FOLDS/$i --out RUNS/$i/train
      descry evaluate NAME --coco FOLDS/$i --checkpoint RUNS/$i/train/model.safetensors \
          --out RUNS/$i/test
    done
    python benchmarks/folds.py pool --folds FOLDS --runs RUNS --out POOLED
    descry evaluate --gt POOLED/truth.json --predictions POOLED/predictions.json --out POOLED/test
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.atomic import write_json
from pipeline.convert.engine.split import group_number
from pipeline.data.coco import load_coco
from pipeline.errors import DescryError

FEWEST = 3  # folds: one to test, one to choose by, one to train on
Tree = dict[str, Any]


def joined(trees: Sequence[Mapping[str, Any]]) -> Tree:
    """COCO trees as one, with images and annotations numbered anew in their order."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for tree in trees:
        place = {image["id"]: len(images) + i for i, image in enumerate(tree["images"], 1)}
        images += [{**image, "id": place[image["id"]]} for image in tree["images"]]
        for box in tree["annotations"]:
            own = {"id": len(annotations) + 1, "image_id": place[box["image_id"]]}
            annotations.append({**box, **own})
    return {**trees[0], "images": images, "annotations": annotations}


def deal(tree: Tree, folds: int, seed: int) -> dict[int, int]:
    """Image id -> its fold, from 0; a patient's images are together.

    Raises
    ------
    DescryError
        When there are fewer than three folds, or fewer patients than folds.
    """
    boxed = {box["image_id"] for box in tree["annotations"]}
    members: dict[int, list[int]] = defaultdict(list)
    for image in tree["images"]:
        members[group_number(seed, image.get("group", ""), image["file_name"])].append(image["id"])
    if not FEWEST <= folds <= len(members):
        of = f"{folds} folds of {len(members)} patients or images"
        raise DescryError(f"{of}: give --folds from {FEWEST} to that")
    lots = sorted(members, key=lambda lot: (boxed.isdisjoint(members[lot]), lot))
    return {image: i % folds for i, lot in enumerate(lots) for image in members[lot]}


def part(tree: Tree, chosen: set[int]) -> Tree:
    """The images of a tree with these ids, and their annotations."""
    images = [image for image in tree["images"] if image["id"] in chosen]
    boxes = [box for box in tree["annotations"] if box["image_id"] in chosen]
    return {**tree, "images": images, "annotations": boxes}


def split(coco: Path, folds: int, seed: int, out: Path) -> None:
    """Write the k datasets ``1`` to ``k``, with a link to the images."""
    tree = joined([load_coco(coco / f"annotations/{name}.json") for name in ("train", "val")])
    fold = deal(tree, folds, seed)
    for i in range(folds):
        places = {"test": {i}, "val": {(i + 1) % folds}}
        places["train"] = set(range(folds)) - places["test"] - places["val"]
        (out / f"{i + 1}/annotations").mkdir(parents=True)
        (out / f"{i + 1}/images").symlink_to((coco / "images").resolve())
        for name, held in places.items():
            chosen = {image for image, at in fold.items() if at in held}
            write_json(out / f"{i + 1}/annotations/{name}.json", part(tree, chosen))


def pool(folds: Path, runs: Path, out: Path) -> None:
    """Write the truth and the detections of all test folds as one file each."""
    names = sorted((f.name for f in folds.iterdir() if f.name.isdigit()), key=int)
    trees = [load_coco(folds / name / "annotations/test.json") for name in names]
    found = [json.loads((runs / name / "test/predictions.json").read_text()) for name in names]
    # `split` has numbered the images over all folds, so that ids need no change here.
    images = [image for tree in trees for image in tree["images"]]
    boxes = [box for tree in trees for box in tree["annotations"]]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "truth.json", {**trees[0], "images": images, "annotations": boxes})
    write_json(out / "predictions.json", [row for rows in found for row in rows])


def main() -> None:
    """Split or pool."""
    parser = argparse.ArgumentParser(description="k-fold cross-validation of a converted dataset")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("split", help="k datasets out of one")
    one.add_argument("--coco", type=Path, required=True)
    one.add_argument("--folds", type=int, default=5)
    one.add_argument("--seed", type=int, default=0)
    two = commands.add_parser("pool", help="the detections of all test folds together")
    two.add_argument("--folds", type=Path, required=True)
    two.add_argument("--runs", type=Path, required=True)
    for command in (one, two):
        command.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "split":
        split(given.coco, given.folds, given.seed, given.out)
    else:
        pool(given.folds, given.runs, given.out)


if __name__ == "__main__":
    main()
