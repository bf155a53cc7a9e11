"""A saved model as a program for other runtimes, written only if it gives the same detections.

The graph takes 8-bit images (B, 3, S, S), B free, and gives the scores (B, A, K) and decoded boxes
(B, A, 4) of every place or anchor, finest level first. Which of them are detections is decided
outside, by `pipeline.models.heads.base.select` (`pipeline.models.exported`), or inside by nodes
that do the same (`pipeline.models.onnx_graph`).
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.atomic import replacing
from pipeline.data.geometry import fit_square
from pipeline.data.sample import to_tensor
from pipeline.errors import DescryError, first_line
from pipeline.models import exported, onnx_graph
from pipeline.models.detector import Detector
from pipeline.models.exported import Chooser, ExportedModel, Run, Said
from pipeline.models.heads.aligned import AlignedHead, cell_centres
from pipeline.models.heads.retinanet import RetinaNetHead, decoded
from pipeline.models.saved import Detections, SavedModel

FORMS = ("onnx", "torch")
BOX, SCORE = 1e-3, 1e-4  # px of the square that the model sees, and score: what may differ
STRONGEST = 100  # detections of a picture that are compared
_BATCH = 3  # pictures of a batch of the comparison, after one alone
_MOST = 1024  # images of a batch of a program


@dataclass(frozen=True)
class Parity:
    """How far an exported program's detections lie from PyTorch's at most.

    Attributes
    ----------
    box : float
        In pixels of the square that the model sees.
    score : float
    pictures, detections : int
        How many were compared.
    """

    box: float
    score: float
    pictures: int
    detections: int

    def __str__(self) -> str:
        return (
            f"{self.detections} detections in {self.pictures} pictures, differences at most "
            f"{self.box:.1e} px, {self.score:.1e} in score"
        )


class Candidates(nn.Module):
    """A detector up to the choice of detections, for images of one size.

    Parameters
    ----------
    detector : Detector
    side : int
        Of the images, in pixels.

    Attributes
    ----------
    counts : list of int
        Places of each level.
    """

    mean: Tensor
    std: Tensor
    anchors: Tensor
    strides: Tensor

    def __init__(self, detector: Detector, side: int) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head
        self.register_buffer("mean", detector.transform.mean.clone())
        self.register_buffer("std", detector.transform.std.clone())
        with torch.inference_mode(False), torch.no_grad():
            levels = self.backbone(torch.zeros(1, 3, side, side)).values()
            grids = [(level.shape[2], level.shape[3]) for level in levels]
            if isinstance(self.head, RetinaNetHead):
                anchors, strides = self.head.anchors(grids, (side, side), self.mean.device), None
            else:
                anchors, strides = cell_centres(grids, self.mean.device)
        self.register_buffer("anchors", anchors)
        self.register_buffer("strides", strides)
        per_place = len(anchors) // sum(height * width for height, width in grids)
        self.counts = [per_place * height * width for height, width in grids]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, A, K) and boxes (B, A, 4) of images (B, 3, S, S), uint8."""
        batch = (images.float() / 255 - self.mean) / self.std
        outputs = self.head(list(self.backbone(batch).values()))
        if isinstance(self.head, AlignedHead):
            boxes = self.head.boxes(outputs["sides"], self.anchors, self.strides)
            return outputs["scores"].sigmoid(), boxes
        deltas = outputs["bbox_regression"]
        # B by shape: len() would fix it
        anchors = self.anchors.expand(images.shape[0], -1, -1)
        boxes = decoded(deltas.flatten(0, 1), anchors.flatten(0, 1))
        return outputs["cls_logits"].sigmoid(), boxes.unflatten(0, deltas.shape[:2])


@dataclass(frozen=True)
class Form:
    """What to write.

    Attributes
    ----------
    to : {"onnx", "torch"}
    nms : {"outside", "inside"}
        Where detections are chosen: by whoever runs an ONNX graph, or in it.
    int8 : {"", "dynamic", "static"}
        8-bit weights for an ONNX graph, see `pipeline.models.onnx_graph.quantised`.
    """

    to: str = "onnx"
    nms: str = "outside"
    int8: str = ""

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("--to", self.to, FORMS),
            ("--nms", self.nms, exported.NMS),
            ("--int8", self.int8, ("", *onnx_graph.INT8)),
        ):
            if value not in allowed:
                raise DescryError(
                    f"{option} {value!r}: must be one of {', '.join(filter(None, allowed))}"
                )
        if self.to != "onnx" and (self.nms != "outside" or self.int8):
            raise DescryError("--nms inside and --int8: go with --to onnx")


def export(model: SavedModel, path: Path, form: Form, pictures: Sequence[np.ndarray]) -> Parity:
    """Write a model as an ONNX file or a PyTorch program (.pt2), atomically.

    Parameters
    ----------
    model : SavedModel
        On the CPU.
    path : Path
    form : Form
    pictures : sequence of arrays (H, W) or (H, W, 3), uint8
        On which the program has to agree with the model. They show a static 8-bit graph its ranges.

    Returns
    -------
    Parity
        Of what was written; in 8 bits it is told, not judged.

    Raises
    ------
    DescryError
        When a part of the model has no form there (masks have none), or detections differ; nothing
        is written.
    """
    if (task := model.spec.task) != "detect":
        raise DescryError(
            f"--to {form.to}: a model of model.task={task} finds masks, which have no form there; "
            f"--to monai takes it as it is"
        )
    candidates = Candidates(model.detector, model.image_size).eval()
    program = _traced(model, candidates)
    try:
        written = (_onnx if form.to == "onnx" else _torch)(model, program, candidates.counts, form)
    except DescryError:
        raise
    except Exception as error:  # exporters document no set of exceptions
        raise _no_form(model, form.to, error) from error
    found = parity(model, written.model(model), pictures)
    if not (found.box <= BOX and found.score <= SCORE):
        raise DescryError(
            f"{path}: not written: the program's detections differ from PyTorch's by more than "
            f"{BOX} px of {model.image_size} or {SCORE} in score ({found})"
        )
    if form.int8:
        written = _int8(model, written, form, pictures)
        found = parity(model, written.model(model), pictures)
    with replacing(path, "wb") as stream:
        stream.write(written.content)
    return found


@dataclass(frozen=True)
class _Written:
    """An exported file, the graph in it and what runs it."""

    content: bytes
    body: bytes
    run: Run
    places: list[int]
    nms: str = "outside"

    def model(self, of: SavedModel) -> ExportedModel:
        """The program in the place of the model's detector."""
        said = Said(self.places, self.nms, of.image_size, of.spec, of.meta)
        return ExportedModel.around(self.run, said)


def parity(model: SavedModel, other: SavedModel, pictures: Sequence[np.ndarray]) -> Parity:
    """Compare the strongest detections of two models, those below their thresholds too.

    Each of either's `STRONGEST` has to have its like, by class, among the other's. Where a graph
    chooses itself, it is compared by the model's own choice.
    """
    kept = [one.detector.selection for one in (model, other)]
    chosen = model.spec.selection
    if not isinstance(other.detector, Chooser):
        chosen = replace(chosen, score_threshold=0.0, max_detections=1000)
    try:
        model.detector.selection = other.detector.selection = chosen
        pairs = [
            (*pair, model.image_size / max(picture.shape[:2]))
            for batch in (pictures[:1], *_parts(pictures[1:]))
            for *pair, picture in zip(model.detect(batch), other.detect(batch), batch, strict=True)
        ]
    finally:
        model.detector.selection, other.detector.selection = kept
    gaps = np.concatenate([_gaps(*pair, px) for a, b, px in pairs for pair in ((a, b), (b, a))])
    worst = gaps.max(axis=0, initial=0.0)
    compared = sum(min(len(a.scores), STRONGEST) for a, _, _ in pairs)
    return Parity(float(worst[0]), float(worst[1]), len(pairs), compared)


def _parts(pictures: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
    return [pictures[i : i + _BATCH] for i in range(0, len(pictures), _BATCH)]


def _gaps(ours: Detections, theirs: Detections, px: float) -> np.ndarray:
    """(n, 2) distances of our n strongest to the nearest of theirs: in px of the square, in score.

    `px` is the square's side by the picture's: in the picture's own pixels a program would pass on
    small pictures and be refused on large ones.
    """
    ours = Detections(ours.boxes[:STRONGEST], ours.scores[:STRONGEST], ours.labels[:STRONGEST])
    if not len(theirs.scores):
        return np.full((len(ours.scores), 2), np.inf)
    box = np.abs(ours.boxes[:, None] - theirs.boxes).max(axis=2) * px  # (n, m)
    score = np.abs(ours.scores[:, None] - theirs.scores)
    apart = ours.labels[:, None] != theirs.labels
    box[apart] = score[apart] = np.inf
    with np.errstate(invalid="ignore"):
        nearest = np.maximum(box / BOX, score / SCORE).argmin(axis=1)
    rows = np.arange(len(nearest))
    return np.stack([box[rows, nearest], score[rows, nearest]], axis=1)


def _traced(model: SavedModel, candidates: Candidates) -> Any:
    side = model.image_size
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    batch = {0: torch.export.Dim("batch", min=1, max=_MOST)}
    try:
        with torch.no_grad():
            return torch.export.export(candidates, (example,), dynamic_shapes=(batch,))
    except Exception as error:  # torch.export documents no set of exceptions
        raise _no_form(model, "torch", error) from error


def _onnx(model: SavedModel, program: Any, places: list[int], form: Form) -> _Written:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        exported.imported(name, "--to onnx")
    for name in ("onnxscript", "onnx_ir"):  # they tell of every node that they join
        logging.getLogger(name).setLevel(logging.WARNING)
    written = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["scores", "boxes"],
    )
    assert written is not None
    proto = _without_places(written.model_proto)
    if form.nms == "inside":
        chosen = model.spec.selection
        proto = onnx_graph.with_selection(proto, places, chosen, model.image_size)
    body = proto.SerializeToString(deterministic=True)
    return _complete(model, body, places, replace(form, int8=""))


def _complete(model: SavedModel, body: bytes, places: list[int], form: Form) -> _Written:
    """A graph with what the model says of itself."""
    spec = asdict(model.spec)
    text = exported.said_of(body, spec, model.meta, places, form.nms, form.int8)
    content = body + exported.tail(text)
    return _Written(content, body, exported.runtime("--to onnx", content, "cpu"), places, form.nms)


def _int8(
    model: SavedModel, written: _Written, form: Form, pictures: Sequence[np.ndarray]
) -> _Written:
    fitted = [to_tensor(fit_square(picture, model.image_size)[0]) for picture in pictures]
    batches = [square[None].numpy() for square in fitted]
    body = onnx_graph.quantised(written.body, form.int8, batches)
    return _complete(model, body, written.places, form)


def _without_places(proto: Any) -> Any:
    """Leave out where in which source file a node came from: paths of this machine."""
    for graph in (proto.graph, *proto.functions):
        for part in (*graph.node, *graph.value_info):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    for part in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        part.ClearField("metadata_props")
    proto.graph.ClearField("metadata_props")
    return proto


def _torch(model: SavedModel, program: Any, places: list[int], form: Form) -> _Written:
    stream = io.BytesIO()
    with torch.no_grad():
        text = exported.said_of(b"", asdict(model.spec), model.meta, places)
        torch.export.save(program, stream, extra_files={exported.KEY: text})
    content = stream.getvalue()
    module = torch.export.load(io.BytesIO(content)).module()
    # called through a function: a module of this kind is no part of another
    return _Written(content, b"", lambda images: module(images), places)


def _no_form(model: SavedModel, form: str, error: Exception) -> DescryError:
    spec = model.spec
    return DescryError(
        f"--to {form}: backbone {spec.backbone} with head {spec.head} does not export "
        f"({type(error).__name__}: {first_line(error)}); nothing is written"
    )
