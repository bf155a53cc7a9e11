"""Changes to an exported ONNX graph: the choice of detections as nodes, and 8-bit weights."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.errors import DescryError
from pipeline.models.exported import imported
from pipeline.models.heads.base import CANDIDATES
from pipeline.models.params import Selection

INT8 = ("dynamic", "static")
_TYPES = {"dynamic": ["MatMul", "Gemm"], "static": ["Conv", "MatMul", "Gemm"]}
_DENSE = {"scores": "dense_scores", "boxes": "dense_boxes"}  # of all places, inside of the graph


def with_selection(proto: Any, places: Sequence[int], chosen: Selection, side: int) -> Any:
    """Append what `pipeline.models.heads.base.select` does.

    Parameters
    ----------
    proto : onnx.ModelProto
        With outputs "scores" (B, A, K) and "boxes" (B, A, 4); changed in place and returned.
    places : sequence of int
        Of each level; their sum is A.
    chosen : Selection
    side : int
        Of the images in pixels.

    Returns
    -------
    onnx.ModelProto
        With outputs "scores" (B, D), "boxes" (B, D, 4) and "labels" (B, D), strongest first, D the
        most detections; rows of score 0 are none.
    """
    onnx = imported("onnx", "--nms inside")
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [_DENSE.get(name, name) for name in names]
    classes = proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    batch = proto.graph.output[0].type.tensor_type.shape.dim[0]
    most = min(chosen.max_detections, classes * sum(places))
    graph = _Nodes(proto, onnx)
    boxes = graph("Clip", "dense_boxes", np.float32(0), np.float32(side), output="clipped")
    scores = graph("Transpose", _strongest(graph, places, classes), perm=[0, 2, 1])  # (B, K, A)
    kept = graph(
        "NonMaxSuppression",
        boxes,
        scores,
        np.int64(chosen.max_detections),  # of a class: more are never among the strongest of all
        np.float32(chosen.nms_threshold),
        np.float32(chosen.score_threshold),
    )
    values = graph("GatherND", scores, kept)
    nothing = graph("Mul", scores, np.float32(0))
    flat = graph("Reshape", graph("ScatterND", nothing, kept, values), np.array([0, -1]))
    best, at = graph.several(2, "TopK", flat, np.array([most]), axis=1)
    graph("Identity", best, output="scores")
    graph("Div", at, np.int64(sum(places)), output="labels")
    place = graph("Unsqueeze", graph("Mod", at, np.int64(sum(places))), np.array([-1]))
    graph("GatherND", boxes, place, batch_dims=1, output="boxes")
    del proto.graph.output[:]
    for name, kind, shape in (
        ("scores", onnx.TensorProto.FLOAT, [most]),
        ("boxes", onnx.TensorProto.FLOAT, [most, 4]),
        ("labels", onnx.TensorProto.INT64, [most]),
    ):
        info = onnx.helper.make_tensor_value_info(name, kind, [batch.dim_param, *shape])
        proto.graph.output.append(info)
    onnx.checker.check_model(proto)
    return proto


def _strongest(graph: "_Nodes", places: Sequence[int], classes: int) -> str:
    """Scores (B, A, K), of each level all but its `CANDIDATES` strongest 0."""
    levels = graph.several(
        len(places), "Split", _DENSE["scores"], np.array(places, np.int64), axis=1
    )
    kept = []
    for level, count in zip(levels, places, strict=True):
        if count * classes > CANDIDATES:
            flat = graph("Reshape", level, np.array([0, -1]))
            best, at = graph.several(2, "TopK", flat, np.array([CANDIDATES]), axis=1)
            nothing = graph("Mul", flat, np.float32(0))
            level = graph("ScatterElements", nothing, at, best, axis=1)
            level = graph("Reshape", level, np.array([0, count, classes]))
        kept.append(level)
    return graph("Concat", *kept, axis=1)


class _Nodes:
    """Appends nodes to a graph; arrays among the inputs become its constants."""

    def __init__(self, proto: Any, onnx: Any) -> None:
        self.graph, self.onnx, self.number = proto.graph, onnx, 0

    def __call__(self, kind: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Append a node with one output; return its name."""
        name = output or self._name()
        self._append(kind, inputs, [name], attributes)
        return name

    def several(self, count: int, kind: str, *inputs: Any, **attributes: Any) -> list[str]:
        """Append a node with several outputs; return their names."""
        names = [self._name() for _ in range(count)]
        self._append(kind, inputs, names, attributes)
        return names

    def _append(
        self, kind: str, inputs: Sequence[Any], outputs: list[str], attributes: dict[str, Any]
    ) -> None:
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        self.graph.node.append(self.onnx.helper.make_node(kind, names, outputs, **attributes))

    def _constant(self, value: Any) -> str:
        name = self._name()
        array = np.asarray(value)
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def _name(self) -> str:
        self.number += 1
        return f"choice_{self.number}"


def quantised(body: bytes, how: str, batches: Sequence[np.ndarray]) -> bytes:
    """A graph with 8-bit weights, by onnxruntime's own tools.

    Parameters
    ----------
    body : bytes
        Of a graph with the input "images".
    how : {"dynamic", "static"}
        Dynamic: weights of matrix products, ranges of their inputs are found as they come. Static:
        convolutions too, ranges are those that `batches` show.
    batches : sequence of arrays (B, 3, S, S), uint8

    Raises
    ------
    DescryError
        When onnxruntime's tools refuse the graph.
    """
    for name in ("onnx", "onnxruntime"):
        imported(name, f"--int8 {how}")
    from onnxruntime import quantization as tools

    level, quiet = logging.getLogger().level, logging.getLogger()
    quiet.setLevel(logging.ERROR)  # they advise on what was chosen on purpose
    try:
        with TemporaryDirectory() as folder:
            source, prepared, out = (Path(folder) / name for name in ("a", "b", "c"))
            source.write_bytes(body)
            tools.shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
            if how == "dynamic":
                tools.quantize_dynamic(
                    prepared, out, op_types_to_quantize=_TYPES[how], per_channel=True
                )
            else:
                tools.quantize_static(
                    prepared,
                    out,
                    _calibration(tools, batches),
                    op_types_to_quantize=_TYPES[how],
                    per_channel=True,
                )
            return _bare(out.read_bytes())
    except Exception as error:  # they document no set of exceptions
        raise DescryError(f"--int8 {how}: onnxruntime refuses the graph ({error})") from error
    finally:
        quiet.setLevel(level)


def _bare(content: bytes) -> bytes:
    """A graph without the tools' remarks."""
    proto = imported("onnx", "--int8").load_model_from_string(content)
    del proto.metadata_props[:]
    return bytes(proto.SerializeToString(deterministic=True))


def _calibration(tools: Any, batches: Sequence[np.ndarray]) -> Any:
    class Reader(tools.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[np.ndarray] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {"images": batch}

    return Reader()
