"""Is this machine fit for use: decoders, device, versions, checkpoint, disk."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID

from pipeline.dicom.read.decoders import PLUGINS
from pipeline.dicom.read.probe import SYNTAXES, probe
from pipeline.errors import DescryError
from pipeline.models.thresholds import OperatingPoint
from pipeline.predict.plan import versions
from pipeline.profile.table import cpu_model

NEEDED_GIB = 1.0  # of free disk, below which a run is not worth starting
SHOWN = 5  # classes of a checkpoint
OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes
    ----------
    section, name, text : str
    status : str
        "ok", "note" (works, but one should know) or "problem" (something needed is missing).
    """

    section: str
    name: str
    status: str
    text: str


def examine(checkpoint: Path | None, folder: Path) -> list[Check]:
    """Check everything.

    Parameters
    ----------
    checkpoint : Path or None
        A model file to try.
    folder : Path
        Where results will go: its disk is looked at.
    """
    checks = [*_machine(), *_decoders(), *_disks(folder), *_versions()]
    return checks if checkpoint is None else [_checkpoint(checkpoint), *checks]


def _machine() -> Iterator[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{cpu_model()}, {cores} cores, PyTorch uses {torch.get_num_threads()} threads"
    yield Check("device", "CPU", OK, text)
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            text = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
            yield Check("device", f"GPU {number}", OK, f"{text}, CUDA {torch.version.cuda}")
    else:
        built = f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        reason = f"none usable; {built or 'PyTorch is built without CUDA'}: runs on the CPU"
        yield Check("device", "GPU", NOTE, reason)
    yield _compiler()


def _compiler() -> Check:
    """Build and load a small library as inductor does: its compiler, its flags, its headers."""
    from torch._inductor import exc

    try:
        with _silent(), tempfile.TemporaryDirectory() as folder:
            return Check("device", "compiler", OK, _built(Path(folder)))
    except exc.InvalidCxxCompiler:
        said = ""
    except exc.CppCompileError as error:
        said = next((line.strip() for line in str(error).splitlines() if "error:" in line), "fails")
    except Exception as error:  # whatever a loader says, or a torch that has moved its builder
        said = f"{type(error).__name__}: {error}"
    which = f" that works ({said})" if said else ""
    text = (
        f"no C++ compiler{which}: --compile and train.compile need one; install g++ and Python's "
        "headers, or name another compiler in CXX"
    )
    return Check("device", "compiler", NOTE, text)


def _built(folder: Path) -> str:
    """The compiler that has built a library in `folder`, which could be loaded."""
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions, get_cpp_compiler

    source = folder / "probe.cpp"
    source.write_text("#include <Python.h>\n#include <omp.h>\n#include <vector>\n")
    builder = CppBuilder("probe", str(source), CppTorchOptions(), str(folder))
    builder.build()
    ctypes.CDLL(builder.get_target_file_path())
    return str(get_cpp_compiler())


def _decoders() -> Iterator[Check]:
    with _silent():
        found = [(UID(syntax), probe(syntax)) for syntax in SYNTAXES]
    for syntax, problem in found:
        text = problem or f"{PLUGINS.get(syntax, 'pydicom')} ({syntax})"
        yield Check("decoders", _short(syntax), PROBLEM if problem else OK, text)


def _short(syntax: UID) -> str:
    """The name of a transfer syntax without the parts that are always there."""
    name = syntax.name.partition(" [")[0]
    for words, fewer in (
        (", Non-Hierarchical", ""),
        (", First-Order Prediction (Process 14", " (Process 14, first order)"),
        ("High-Throughput JPEG 2000", "HTJ2K"),
        (" with RPCL Options", " RPCL"),
        (" Image Compression", ""),
        (" (Lossless Only)", " lossless"),
        ("Lossy (Near-Lossless)", "near-lossless"),
    ):
        name = name.replace(words, fewer)
    return name


@contextmanager
def _silent() -> Iterator[None]:
    """Codecs write to the terminal by themselves."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _disks(folder: Path) -> Iterator[Check]:
    """Where results go, and where codecs and compilers put what they need for a moment."""
    for name, place in (("results", folder), ("temporary", Path(tempfile.gettempdir()))):
        existing = next(path for path in (place, *place.resolve().parents) if path.exists())
        free = shutil.disk_usage(existing).free / 2**30
        writable = os.access(existing, os.W_OK)
        text = f"{free:.1f} GiB free" + ("" if writable else ", and not writable")
        yield Check("disk", name, OK if writable and free >= NEEDED_GIB else PROBLEM, text)


def _checkpoint(path: Path) -> Check:
    """Load a model and look at one picture with it."""
    import numpy as np

    from pipeline.models.saved import SavedModel

    try:
        model = SavedModel.load(path)
        model.detect([np.zeros((64, 64), np.uint8)])
    except DescryError as error:
        return Check("checkpoint", path.name, PROBLEM, str(error))
    point = OperatingPoint.read(model.meta, model.score_threshold)
    lowest = point.lowest(model.categories)
    classes = _listed([name for _, name in model.categories])
    own = _listed([f"{name} {lowest[i]:g}" for i, name in model.categories if point.by_class])
    spec = f"{model.spec.backbone} {model.spec.size}, {model.image_size} px"
    text = (
        f"{spec}; {classes}; threshold {point.threshold:g}{own and f' (by class: {own})'}; "
        f"trained on {model.trained_on}; {path.stat().st_size / 2**20:.1f} MiB, "
        f"sha256 {model.sha256[:12]}"
    )
    return Check("checkpoint", path.name, OK, text)


def _listed(parts: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return ", ".join(parts[:SHOWN]) + more


def _versions() -> Iterator[Check]:
    for name, number in versions().items():
        yield Check("versions", name, PROBLEM if number == "absent" else OK, number)
