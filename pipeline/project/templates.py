"""params.yaml and dvc.yaml of a project, made from the repository's own, comments and all."""

import io
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

EPOCHS = {"sample": 20, "paper": 30}
VERSION_FILE = "requirements.txt"  # what the stages depend on in the place of the code


def template(name: str) -> str:
    """The text of one of the repository's files."""
    return files("pipeline.project").joinpath(name).read_text(encoding="utf-8")


def first_params(name: str, entry: Mapping[str, Any], augment: str) -> str:
    """params.yaml with one dataset, in the place of those that are built in."""

    def change(tree: Any) -> None:
        for group in _groups(tree):
            for built_in in tree["datasets"]:
                group.pop(built_in, None)
        tree["datasets"].clear()
        tree["data"]["source"] = "raw"
        tree["predict"] |= {
            "model": f"runs/{name}/train/model.safetensors",
            "source": f"datasets/{name}/raw",
        }
        _enter(tree, name, entry, augment)

    return _changed(template("params.yaml"), change)


def with_dataset(params: str, name: str, entry: Mapping[str, Any], augment: str) -> str:
    """A project's params.yaml with one more dataset."""
    return _changed(params, lambda tree: _enter(tree, name, entry, augment))


def first_stages(name: str) -> str:
    """dvc.yaml for one dataset: it depends on the version of descry, not on its code."""

    def change(tree: Any) -> None:
        for stage in tree["stages"].values():
            kept = [dep for dep in stage["deps"] if not dep.startswith("pipeline/")]
            stage["deps"] = [*kept, VERSION_FILE]
        for curves in _curves(tree):
            for path in list(curves)[1:]:
                del curves[path]
        _plot(tree, name)
        for curves in _curves(tree):
            del curves[next(iter(curves))]

    return _changed(template("dvc.yaml"), change)


def with_plots(stages: str, name: str) -> str:
    """A project's dvc.yaml with the plots of one more dataset."""
    return _changed(stages, lambda tree: _plot(tree, name))


def _curves(tree: Any) -> Iterator[Any]:
    """Of each plot the files with their columns."""
    for plot in tree.get("plots", ()):
        for settings in plot.values():
            yield settings["y"]


def _plot(tree: Any, name: str) -> None:
    """Plot of a dataset what is plotted of the first one."""
    for curves in _curves(tree):
        path, column = next(iter(curves.items()))
        runs, _, *rest = path.split("/")
        curves["/".join([runs, name, *rest])] = column


def _groups(tree: Any) -> list[Any]:
    """Every group that has a key for each dataset."""
    epochs = [recipe["epochs"] for recipe in tree["recipes"].values()]
    return [tree["convert"], tree["augment"], tree["modality"], *epochs]


def _enter(tree: Any, name: str, entry: Mapping[str, Any], augment: str) -> None:
    tree["datasets"].append(name)
    tree["convert"][name] = dict(entry)
    tree["augment"][name] = augment
    tree["modality"][name] = []
    for recipe, group in tree["recipes"].items():
        group["epochs"][name] = EPOCHS[recipe]


def _changed(text: str, change: Callable[[Any], None]) -> str:
    """YAML after a change to its tree; comments stay."""
    yaml = YAML()
    yaml.width = 100
    yaml.indent(mapping=2, sequence=4, offset=2)
    tree = yaml.load(text)
    change(tree)
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()
