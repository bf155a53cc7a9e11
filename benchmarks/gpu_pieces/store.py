"""Results on disk, one JSON per unit, each under a key of all that decides it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_pieces.units import Unit
from pipeline.atomic import write_json

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SHARED = ("arms", "steps")  # modules of this package that more than one piece measures with


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
        """Hash of pipeline/ and of the modules that do the unit; params.yaml for the study."""
        files = list((ROOT / "pipeline").rglob("*.py"))
        files += [HERE / f"{name}.py" for name in (*SHARED, unit.kind)]
        if unit.kind == "study":
            files.append(ROOT / "params.yaml")
        return tree_hash(ROOT, files)

    def key(self, unit: Unit) -> str:
        """Equal for two results that must not differ but by chance."""
        decides = {"code": self.code(unit), "parameters": unit.parameters, "kind": unit.kind}
        decides |= {"versions": self.versions, "device": self.device, "machine": self.machine}
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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
