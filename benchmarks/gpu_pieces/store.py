"""Results on disk, one JSON per unit, each under a key of all that decides it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_pieces.units import WITH_DATA, Unit
from pipeline.atomic import write_json

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# modules of this package that do a unit of a kind
MODULES = {
    "bits": ("bits", "arms", "steps"),
    "throughput": ("throughput", "arms", "steps"),
    "memory": ("memory", "arms", "steps"),
    "gains": ("gains", "arms", "steps"),
    "rate": ("rate", "gains", "arms", "steps"),
    "training": ("study",),
    "study": ("study",),
}
# of pipeline/, that training needs
ROOMS = ("convert", "data", "evaluate", "models", "stages", "train")
BESIDE = ("params.yaml", "pipeline/config.py")
# distributions that decide over a unit's result
PACKAGES = ("torch", "torchvision", "timm", "numpy", "triton")
FOR_DATA = ("albumentations", "lightning", "opencv-python-headless", "pillow")


def tree_hash(root: Path, files: list[Path]) -> str:
    """SHA-256 over names and contents, in the order of the names."""
    whole = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        whole.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class Place:
    """Where and with what the units are done.

    Attributes
    ----------
    device : dict
        Kind of device, see `gpu_pieces.probe`.
    machine, versions : dict
        As `machine.py` gives them.
    """

    out: Path
    device: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]

    def code(self, unit: Unit) -> str:
        """Hash of what does the unit: models or all that trains, and the modules here."""
        rooms = ROOMS if unit.kind in WITH_DATA else ("models",)
        files = [path for room in rooms for path in (ROOT / "pipeline" / room).rglob("*.py")]
        files += [ROOT / name for name in BESIDE if unit.kind in WITH_DATA]
        files += [HERE / f"{name}.py" for name in MODULES[unit.kind]]
        return tree_hash(ROOT, files)

    def key(self, unit: Unit) -> str:
        """Equal for two results that must not differ but by chance."""
        decides = {"code": self.code(unit), "parameters": unit.parameters, "kind": unit.kind}
        decides |= {"device": self.device, "machine": self.machine, "versions": self.counting(unit)}
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def counting(self, unit: Unit) -> dict[str, str]:
        """The versions that decide over the unit: data packages that come later undo no timing."""
        beside = () if unit.kind in WITH_DATA else FOR_DATA
        return {name: version for name, version in self.versions.items() if name not in beside}

    def path(self, unit: Unit) -> Path:
        """The unit's JSON."""
        return self.out / unit.piece / f"{unit.name}.json"

    def record(self, unit: Unit) -> dict[str, Any] | None:
        """What is there of a unit under its present key; None if nothing."""
        path = self.path(unit)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None  # not ours or cut short: it is made anew
        return found if isinstance(found, dict) and found.get("key") == self.key(unit) else None

    def done(self, unit: Unit) -> bool:
        """Whether there is a result; what failed or was skipped is tried again."""
        found = self.record(unit)
        return found is not None and found["status"] == "done"

    def write(self, unit: Unit, answer: dict[str, Any], seconds: float) -> None:
        """Keep an answer with all that it depends on."""
        whole: dict[str, Any] = {"piece": unit.piece, "kind": unit.kind, "name": unit.name}
        whole |= {"key": self.key(unit), "code": self.code(unit), "parameters": unit.parameters}
        whole |= {"device": self.device, "machine": self.machine, "versions": self.versions}
        write_json(self.path(unit), whole | answer | {"seconds": round(seconds, 1)})
