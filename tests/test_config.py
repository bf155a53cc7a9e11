"""params.yaml: complete, and every mistake named."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config import Params, load_params
from pipeline.errors import DescryError

ROOT = Path(__file__).parents[1]


def test_params_yaml_holds_every_knob_and_loads():
    params = load_params(ROOT / "params.yaml")
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert _keys(written) == _keys(dataclasses.asdict(params))


def _keys(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix}
    return {k for name, inner in tree.items() for k in _keys(inner, f"{prefix}.{name}")} or {prefix}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.pool_layers=three", ["model.pool_layers", "'three'", "integer", "0", "8"]),
        ("model.pool_layers=9", ["model.pool_layers", "9", "at most 8"]),
        ("model.pool_layers=2.5", ["model.pool_layers", "2.5", "integer"]),
        ("model.pool_layer=3", ["model.pool_layer", "not a known key", "model.pool_layers"]),
        ("modle.pool_layers=3", ["modle", "not a known key", "model"]),
        ("train.lr=-1", ["train.lr", "-1", "above 0"]),
        ("train.deterministic=maybe", ["train.deterministic", "'maybe'", "true or false"]),
        ("data.source=web", ["data.source", "'web'", "sample, raw"]),
        ("datasets=[nih, foo]", ["datasets", "'foo'", "ccellbio"]),
        ("datasets=[]", ["datasets"]),
        ("recipes.sample.image_size=100", ["image_size", "100", "multiple of 32"]),
        ("recipes.sample.epochs=3", ["recipes.sample.epochs", "a key for each dataset"]),
        ("model=3", ["model", "group"]),
        ("convert.nih.negatives=.nan", ["convert.nih.negatives", "at least 0"]),
        ("convert.nih.negatives=-1.0", ["convert.nih.negatives", "-1.0", "at least 0"]),
        ("convert.nih.negtives=2.0", ["Did you mean convert.nih.negatives?"]),
        ("convert.nih=2", ["convert.nih = 2", "group of keys: negatives"]),
        ("convert.cod10k.classes=both", ["convert.cod10k.classes", "single, super, sub"]),
        ("convert.brain_tumor.fold=6", ["convert.brain_tumor.fold = 6", "at most 5"]),
        ("convert.brain_tumor.plane=oblique", ["'oblique'", "all, axial, coronal, sagittal"]),
        ("convert.ccellbio.layout=xml", ["'xml'", "auto, coco, voc, yolo, masks"]),
        ("convert.ccellbio.masks=polygons", ["'polygons'", "instances, classes"]),
        ("convert.ccellbio.tile_overlap=-1", ["convert.ccellbio.tile_overlap = -1", "at least 0"]),
        ("convert.ccellbio.tile_keep=0.0", ["convert.ccellbio.tile_keep", "above 0", "at most 1"]),
        ("model.drop_path=1.5", ["model.drop_path", "below 1 or null"]),
        ("model.options.seam=true", ["model.options.seam is not a known key", "class_token"]),
        (
            "model={backbone: acmix_swin, options: {seem: false}}",
            ["mean model.options.seam?"],
        ),
        ("model={backbone: glnet, options: {slot_scale: x}}", ["slot_scale = 'x'", "a number"]),
        ("recipes.sample.model.size=big", ["sample.model.size = 'big'", "micro, tiny"]),
        ("model.pool_layers=", ["model.pool_layers", "None"]),
        ("model.pool_layers", ["key=value"]),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_what_is_allowed(change, words):
    with pytest.raises(DescryError) as caught:
        load_params(ROOT / "params.yaml", [change])
    for word in words:
        assert word in str(caught.value)


def test_two_mistakes_are_named_in_one_go(tmp_path):
    (tmp_path / "params.yaml").write_text("model: {pool_layers: x}\ntrain: {lr: 0}\n")
    with pytest.raises(DescryError) as caught:
        load_params(tmp_path / "params.yaml")
    assert "model.pool_layers" in str(caught.value) and "train.lr" in str(caught.value)


def test_exponents_without_a_point_are_numbers():
    assert load_params(overrides=["train.lr=1e-3"]).train.lr == 0.001


def test_not_yaml_and_not_a_mapping(tmp_path):
    for text in ("a: [", "- 1"):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(DescryError, match=r"params\.yaml"):
            load_params(tmp_path / "params.yaml")


def test_without_a_file_the_defaults_hold(tmp_path):
    assert load_params(tmp_path / "none.yaml") == Params()


def test_the_check_does_not_import_torch():
    code = "import sys, pipeline.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_ends_with_2_and_no_traceback(tmp_path):
    (tmp_path / "params.yaml").write_text("model: {pool_layers: x}\n")
    command = [sys.executable, "-m", "pipeline", "train", "nih", "--params"]
    done = subprocess.run(
        [*command, str(tmp_path / "params.yaml")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "model.pool_layers = 'x'" in done.stderr and "Traceback" not in done.stderr


OWN = ["convert.my_cells={}", "augment.my_cells=microscopy"]


def test_a_group_in_convert_makes_a_dataset_of_ones_own():
    changes = [*OWN, "datasets=[my_cells, nih]", "convert.my_cells.tile=512"]
    model = "runs/my_cells/train/model.safetensors"
    changes += [f"predict.model={model}", "recipes.sample.epochs.my_cells=7"]
    params = load_params(ROOT / "params.yaml", changes)
    assert params.datasets == ("my_cells", "nih")
    assert params.known == ("brain_tumor", "ccellbio", "cod10k", "nih", "rsna", "my_cells")
    assert params.convert.my_cells.tile == 512
    assert params.augment["my_cells"] == "microscopy" and params.modality["my_cells"] == ()
    assert params.scale.epochs["my_cells"] == 7 and params.recipes.paper.epochs["my_cells"] == 30
    assert params.scale.epochs["nih"] == 40  # what params.yaml says of the others stays


def test_without_a_file_ones_own_dataset_needs_two_keys(tmp_path):
    assert load_params(tmp_path / "none.yaml", OWN).known[-1] == "my_cells"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (OWN[:1], ["augment.my_cells is missing", "microscopy, natural"]),
        (OWN[1:], ["augment.my_cells is not a known key"]),
        ([*OWN, "datasets=[my_cell]"], ["'my_cell'", "rsna, my_cells"]),
        ([*OWN, "convert.my_cells.tile=x"], ["convert.my_cells.tile = 'x'", "at least 0"]),
        ([*OWN, "convert.my_cells.negatives=2"], ["negatives is not a known key", "layout, clas"]),
        (["convert.nihh={negatives: 1}"], ["convert.nihh.negatives", "of your own", "nihh"]),
        (["convert.My Cells={}"], ["convert.My Cells is not a known key"]),
        (["convert.report={}"], ["convert.report: is no name for a dataset, see runs/report"]),
        (["convert.png_lvl=2"], ["Did you mean convert.png_level"]),
        ([*OWN, "modality.my_cells=MR"], ["modality.my_cells = 'MR'", "a list of text"]),
        ([*OWN, "recipes.sample.epochs.my_cells=0"], ["epochs.my_cells = 0", "at least 1"]),
    ],
)
def test_what_is_wrong_with_ones_own_dataset_is_named(changes, words):
    with pytest.raises(DescryError) as caught:
        load_params(ROOT / "params.yaml", changes)
    for word in words:
        assert word in str(caught.value)
