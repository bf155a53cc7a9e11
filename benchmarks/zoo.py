"""Put a trained model into zoo/: weights in the present format, figures as JSON, and its card.

    descry train ... --out RUN/train && descry evaluate ... --out RUN/test
    python benchmarks/zoo.py RUN bccd_cells

The words of the card stand in zoo/NAME/words.md and are written by hand; the rest comes from the
model and from what `descry evaluate` wrote of its test split.
"""

import argparse
from pathlib import Path
from typing import Any

from pieces import ROOT, figures

from pipeline.atomic import replacing, write_json
from pipeline.models.saved import SavedModel

MIB = 2**20
LARGEST = 12 * MIB  # of a model, so that a few of them stay below 25 MB


def card(words: str, model: SavedModel, size: int, test: dict[str, Any]) -> str:
    """The card in Markdown."""
    spec, meta = model.spec, model.meta
    source = meta.get("initialised_from")
    start = f"a model with sha256 {source['sha256']}" if source else "random weights"
    classes = [f"| {name} | {ap:.3f} |" for name, ap in test["AP by class"].items()]
    rows = {
        "detector": f"{spec.backbone} {spec.size}, stem {spec.stem}, head {spec.head}",
        "ACP, CAT": f"{spec.pool_layers} pooling layers, {spec.concepts} concepts",
        "sees": f"squares of {model.image_size} px",
        "trained": f"{meta['epochs']} epochs of {meta['training_images']} images, from {start}, "
        f"seed {meta['seed']}",
        "operating point": f"score {model.score_threshold:.3f}: {meta['score_threshold_source']}",
        "file": f"{size / MIB:.1f} MiB, sha256 {model.sha256}",
    }
    facts = [f"| {name} | {text} |" for name, text in rows.items()]
    found = ", ".join(f"{name} {test[name]:.3f}" for name in ("AP", "AP50", "AP75"))
    found = f"{test['images']} images, {test['objects']} objects: {found}."
    lines = [words.strip(), "", "| | |", "|---|---|", *facts, "", "## Test split", "", found, ""]
    lines += ["| class | AP |", "|---|---|", *classes, "", meta["intended_use"], ""]
    return "\n".join(lines)


def main() -> None:
    """Write zoo/NAME."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder with train/ and test/")
    parser.add_argument("name", help="folder in zoo/, with words.md in it")
    given = parser.parse_args()
    out = ROOT / "zoo" / given.name
    (source,) = (given.run / "train").glob("model.*")
    path = out / "model.safetensors"
    SavedModel.load(source).save(path)
    size = path.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{path}: {size / MIB:.1f} MiB, at most {LARGEST / MIB:.0f} are allowed")
    model, test = SavedModel.load(path), figures(given.run / "test")
    write_json(out / "test.json", {"sha256 of the model": model.sha256, "test": test})
    with replacing(out / "README.md") as stream:
        stream.write(card((out / "words.md").read_text(), model, size, test))


if __name__ == "__main__":
    main()
