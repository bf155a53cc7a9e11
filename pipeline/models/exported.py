"""Exported models: an ONNX file that stands alone, run by onnxruntime.

The file is the graph (8-bit images (B, 3, S, S) to scores (B, A, K) and boxes (B, A, 4) of all
places, see `pipeline.models.export`) and, as its last bytes, one metadata entry "descry" with the
JSON of a model file (`pipeline.models.storage`) and "program": how many places each level has and
the SHA-256 of the graph and of what is said about it. Images are prepared and detections chosen by
the same code as for a model.safetensors. In format 2 the graph chooses them
(`pipeline.models.onnx_graph`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import __version__
from pipeline.errors import DescryError, first_line
from pipeline.models import storage
from pipeline.models.heads.base import select
from pipeline.models.params import DetectorSpec, Selection
from pipeline.models.saved import SavedModel

FORMAT = 2
SUFFIX = ".onnx"
KEY = "descry"
INSTALL = "`python -m pip install 'descry[onnx]'` installs it"
WAY_OUT = "give a file that `descry export --to onnx` wrote"
Run = Callable[[Tensor], tuple[Tensor, ...]]
NMS = ("outside", "inside")


class Program(nn.Module):
    """Stands where a `Detector` stands; what is between images and candidates, something else does.

    Parameters
    ----------
    run : callable
        Images (B, 3, S, S), uint8, to scores (B, A, K) and boxes (B, A, 4) xyxy in pixels.
    side : int
        S, the only one that `run` takes.
    places : sequence of int
        Of each level; their sum is A.
    selection : Selection
        What inference keeps.
    """

    def __init__(self, run: Run, side: int, places: Sequence[int], selection: Selection) -> None:
        super().__init__()
        self.run, self.side, self.places, self.selection = run, side, list(places), selection
        # tells where images are wanted: in this machine's memory
        self.home = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detections of a batch, as `Detector` gives them."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        if size != (self.side, self.side):
            raise DescryError(f"an exported model takes {self.side} px, not {size}: use the model")
        return [self._chosen(size, *one) for one in zip(*self.run(images), strict=True)]

    def _chosen(self, size: tuple[int, int], scores: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        levels = boxes.split(self.places)
        return select(
            scores.split(self.places), lambda level, at: levels[level][at], size, self.selection
        )


class Chooser(Program):
    """A `Program` that chooses: `run` gives scores (B, D), boxes (B, D, 4) and labels (B, D)."""

    def _chosen(  # type: ignore[override]
        self, size: tuple[int, int], scores: Tensor, boxes: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        there = scores > 0
        return {"boxes": boxes[there], "scores": scores[there], "labels": labels[there]}


class ExportedModel(SavedModel):
    """A `SavedModel` whose detector is a `Program`: it computes in fp32, in one size."""

    def __init__(self, program: Program, spec: DetectorSpec, meta: Mapping[str, Any]) -> None:
        super().__init__(program, spec, meta)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> "ExportedModel":
        """Read an ONNX file that `descry export` wrote.

        Raises
        ------
        DescryError
            When it is missing, not one of ours, of a later version or changed since; when
            onnxruntime is missing or cannot use the device.
        """
        if not path.is_file():
            raise DescryError(f"{path}: no such checkpoint; {WAY_OUT}")
        content = path.read_bytes()
        said = read(path, content)
        model = cls.around(runtime(path, content, device), said)
        model.sha256 = hashlib.sha256(content).hexdigest()
        return model

    @classmethod
    def around(cls, run: Run, said: "Said") -> "ExportedModel":
        """The model whose graph `run` runs."""
        kind = Chooser if said.nms == "inside" else Program
        program = kind(run, said.image_size, said.places, said.spec.selection)
        return cls(program, said.spec, said.meta)

    def prepare(self, precision: str, *, compiled: bool = False, batch_size: int = 1) -> None:
        """Refuse what an exported model cannot do; see `SavedModel.prepare`."""
        if precision != "fp32":
            raise DescryError(f"--precision {precision}: an exported model computes in fp32")
        if compiled:
            raise DescryError("--compile: an exported model is compiled; leave it out")


def open_model(path: Path, device: str | torch.device = "cpu") -> SavedModel:
    """A model of either kind, by the end of its name."""
    kind = ExportedModel if path.suffix == SUFFIX else SavedModel
    return kind.load(path, device)


@dataclass(frozen=True)
class Said:
    """What an exported file says of itself: places of each level, NMS, side, detector, the rest."""

    places: list[int]
    nms: str
    image_size: int
    spec: DetectorSpec
    meta: dict[str, Any]


def said_of(
    body: bytes,
    spec: Mapping[str, Any],
    meta: Mapping[str, Any],
    places: Sequence[int],
    nms: str = "outside",
    int8: str = "",
) -> str:
    """The JSON that makes a graph into a model that stands alone."""
    about = {**meta, "detector": dict(spec)}
    program: dict[str, Any] = {"places": list(places)}
    program |= ({"nms": nms} if nms == "inside" else {}) | ({"int8": int8} if int8 else {})
    program["sha256"] = _digest(body, about, program)
    number = 2 if nms == "inside" else 1  # the least that can read it
    header = {"format": number, "version": __version__, "about": about, "program": program}
    return json.dumps(header, sort_keys=True)


def _digest(body: bytes, about: Any, program: Any) -> str:
    said = json.dumps([about, program], sort_keys=True)
    return hashlib.sha256(body + said.encode()).hexdigest()


def tail(text: str) -> bytes:
    """The metadata entry as bytes; protobuf reads them after a model's as a part of it."""
    onnx = imported("onnx", "")
    entry = onnx.StringStringEntryProto(key=KEY, value=text)
    return bytes(onnx.ModelProto(metadata_props=[entry]).SerializeToString())


def read(path: Path, content: bytes) -> Said:
    """What a file says of itself, checked, and the graph with it.

    Raises
    ------
    DescryError
        When it is not one of ours, of a later version, or changed since it was written.
    """
    onnx = imported("onnx", path)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's error type depends on its implementation
        raise DescryError(f"{path}: not a readable ONNX file; {WAY_OUT}") from error
    text = {entry.key: entry.value for entry in model.metadata_props}.get(KEY)
    if text is None:
        raise DescryError(f"{path}: ONNX, but not a model of descry; {WAY_OUT}")
    header = storage.parse_header(path, text)
    number, version = header.get("format"), str(header.get("version", "?"))
    if number not in range(1, FORMAT + 1):
        raise DescryError(
            f"{path}: written by descry {version} as export format {number}; this is descry "
            f"{__version__}, which reads 1 to {FORMAT}: update it, or export the model again"
        )
    meta, program = header.get("about"), header.get("program")
    about = storage.check_about(path, meta, version)
    body = content.removesuffix(tail(text))
    if not isinstance(program, dict) or program.pop("sha256", "") != _digest(body, meta, program):
        raise DescryError(f"{path}: changed since it was exported; export the model again")
    assert isinstance(meta, dict)
    del meta["detector"]
    nms = str(program.get("nms", "outside"))
    return Said(list(program["places"]), nms, about.image_size, about.detector, meta)


def runtime(path: Path | str, content: bytes, device: str | torch.device) -> Run:
    """What runs a graph with onnxruntime on a device, with as many threads as PyTorch has.

    Raises
    ------
    DescryError
        When onnxruntime is missing, cannot use the device, or does not take the graph.
    """
    onnxruntime = imported("onnxruntime", path)
    kind = torch.device(device).type
    provider = "CUDAExecutionProvider" if kind == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise DescryError(f"{path}: the installed onnxruntime has no {kind}; use --device cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=[provider])
    except Exception as error:  # onnxruntime raises types of its own, of no common base
        raise DescryError(f"{path}: onnxruntime refuses it ({first_line(error)})") from error

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = session.run(None, {"images": images.contiguous().numpy()})
        return tuple(map(torch.from_numpy, found))

    return run


def imported(name: str, path: Path | str) -> Any:
    """A module of the extra `onnx`, or an error that says how to get it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        place = f"{path}: " if path else ""
        raise DescryError(f"{place}needs {name}: {INSTALL}") from error
