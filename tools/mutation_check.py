"""Put deliberate faults into the package, one at a time, and see that the tests notice each.

    python tools/mutation_check.py            all of them, in a copy of the checkout
    python tools/mutation_check.py matching   those whose name has this in it

Each fault names the test files that ought to notice it; only these run, until the first failure.
Ends with 1 if a fault went unnoticed. A fault whose text the code no longer has is an error: say
it anew.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Fault(NamedTuple):
    """One change that must not pass."""

    name: str
    file: str
    text: str
    instead: str
    tests: str


FAULTS = (
    Fault(
        "split: a patient's images are drawn one by one",
        "convert/engine/split.py",
        'name = f"group {group}" if group else f"image {key}"',
        'name = f"image {key}"',
        "test_split test_convert_nih",
    ),
    Fault(
        "reader: MONOCHROME1 is not inverted",
        "dicom/read/lut.py",
        'return True, ("inverted (MONOCHROME1)",)',
        'return inverse, ("inverted (MONOCHROME1)",)',
        "test_dicom_lut test_dicom_pixels",
    ),
    Fault(
        "writer: several values are copied as a Python list",
        "dicom/read/values.py",
        'return "\\\\".join(str(part).strip() for part in value)',
        "return str(list(value))",
        "test_dicom_values test_dicom_odd",
    ),
    Fault(
        "method: ACP's gates take no part",
        "models/interaction.py",
        "full = self._restore(f, grid)",
        "full = self._restore(f, grid) / gate",
        "test_interaction test_backbones",
    ),
    Fault(
        "head: places sit at the corner of their cell",
        "models/heads/aligned.py",
        "x = (torch.arange(width, device=device) + 0.5) * stride",
        "x = torch.arange(width, device=device) * stride",
        "test_aligned_head",
    ),
    Fault(
        "training: the learning rate starts anew after an interruption",
        "train/callback.py",
        'pl_module.schedule.load_state_dict(self.state["schedule"])',
        "pass",
        "test_resume",
    ),
    Fault(
        "loader: every epoch has the same order",
        "data/order.py",
        "np.random.default_rng((self.seed, self.epoch))",
        "np.random.default_rng((self.seed, 0))",
        "test_data_loader",
    ),
    Fault(
        "evaluation: an object may be found twice",
        "evaluate/coco_matching.py",
        "taken[g] |= free & ~self.result.truth.crowd[g, None, None]",
        "pass",
        "test_coco_metrics",
    ),
    Fault(
        "evaluation: the level itself is not enough",
        "evaluate/coco_matching.py",
        "enough = (iou[:, None] >= self.levels)[:, :, None]",
        "enough = (iou[:, None] > self.levels)[:, :, None]",
        "test_coco_metrics test_evaluate_run",
    ),
    Fault(
        "files: a half-written file takes its final name",
        "atomic.py",
        "    except BaseException:\n        temporary.unlink(missing_ok=True)\n",
        "    except BaseException:\n        temporary.replace(path)\n",
        "test_atomic",
    ),
    Fault(
        "tables: a class name may be a formula",
        "atomic.py",
        'return f"\'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell',
        "return cell",
        "test_atomic",
    ),
    Fault(
        "archive: the other side of a retrieval need not show who it is",
        "archive/tls.py",
        "context.verify_mode = ssl.CERT_REQUIRED",
        "pass",
        "test_archive_tls",
    ),
    Fault(
        "writer: width and height in millimetres have their spacings swapped",
        "predict/records.py",
        "round(box[2] * column, MM_DECIMALS), round(box[3] * row, MM_DECIMALS), source",
        "round(box[2] * row, MM_DECIMALS), round(box[3] * column, MM_DECIMALS), source",
        "test_predict test_predict_headers test_dicom_sr",
    ),
    Fault(
        "training: what is validated and saved is not the moving average",
        "train/callback.py",
        "with averaged(self.average, trainer, module):",
        "with averaged(None, trainer, module):",
        "test_train test_train_step",
    ),
    Fault(
        "training: the average is lost by an interruption",
        "train/callback.py",
        "self.average.on_save_checkpoint(trainer, module, state)",
        "pass",
        "test_resume",
    ),
    Fault(
        "evaluation: patients are drawn picture by picture",
        "evaluate/intervals.py",
        'return image.get("group", image.get("patient_id"))',
        "return None",
        "test_evaluate_intervals",
    ),
    Fault(
        "evaluation: of equal thresholds the lowest is taken",
        "evaluate/operating_point.py",
        "best = int(np.argmax(f1))",
        "best = int(len(f1) - 1 - np.argmax(f1[::-1]))",
        "test_operating_point",
    ),
    Fault(
        "inference: shards overlap",
        "predict/sources.py",
        "return paths[shard::shards]",
        "return paths[shard :: max(1, shards - 1)]",
        "test_predict test_predict_sources",
    ),
    Fault(
        "inference: a worthless model says nothing",
        "models/thresholds.py",
        "if ap < LEAST_AP:",
        "if ap < 0:",
        "test_saved test_operating_point test_predict_report",
    ),
    Fault(
        "work: a worker that does not answer is never ended",
        "work/pool.py",
        "worker.hung = True",
        "pass",
        "test_pool",
    ),
    Fault(
        "conversion: a box keeps what lies outside of its image",
        "convert/engine/boxes.py",
        "inside = clip(box, width, height)",
        "inside = box",
        "test_convert_engine test_convert_parts",
    ),
    Fault(
        "browse: whoever asks is let in",
        "browse/server.py",
        'return hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode())',
        "return True",
        "test_browse",
    ),
    Fault(
        "export: what differs is written all the same",
        "models/export.py",
        "if not (found.box <= BOX and found.score <= SCORE):",
        "if False:",
        "test_export",
    ),
    Fault(
        "geometry: boxes go back by the other axis's factor",
        "data/geometry.py",
        "fit = Fit(new_width / width, new_height / height, width, height)",
        "fit = Fit(new_height / height, new_width / width, width, height)",
        "test_data test_predict",
    ),
)


def noticed(fault: Fault, copy: Path) -> bool:
    """Whether the tests fail with the fault in the code."""
    path = copy / "pipeline" / fault.file
    sound = path.read_text()
    if sound.count(fault.text) != 1:
        raise SystemExit(f"{fault.file} has {sound.count(fault.text)} times: {fault.text}")
    path.write_text(sound.replace(fault.text, fault.instead))
    tests = [f"tests/{name}.py" for name in fault.tests.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow and not gpu", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    finally:
        path.write_text(sound)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{fault.name}: the tests did not run\n{done.stdout}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print(f"{'noticed' if done.returncode == 1 else 'MISSED '}  {fault.name}", *failed, flush=True)
    return done.returncode == 1


def main() -> int:
    """Try those that the command line chooses; 1 if one went unnoticed."""
    chosen = [f for f in FAULTS if not sys.argv[1:] or any(w in f.name for w in sys.argv[1:])]
    listed = subprocess.check_output(
        ["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, text=True
    )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for name in filter(None, listed.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
        missed = [fault.name for fault in chosen if not noticed(fault, copy)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
