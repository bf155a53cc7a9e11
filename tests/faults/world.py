"""A small project with every stage's input, the commands over it, and how they are started."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
CELL = Path(__file__).with_name("cell.py")
SECONDS = 150  # after which a command hangs
IMAGES = 24
RAW = "datasets/ccellbio/sample"
COCO = "datasets/ccellbio/coco"
MODEL = "runs/ccellbio/train/model.safetensors"
ODD = (  # names that people, phones and scripts give to files
    "with space", 'quo"te', "apo'strophe", "new\nline", "tab\t", "cat \N{CAT FACE}", "=1+1", "-rf",
    "%s{0}$HOME", "<script>alert(1)</script>".replace("/", "|"), "e\u0301 combined", "n" * 251,
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command, and what it reads and writes.

    Attributes
    ----------
    words : tuple of str
        ``{}`` is the folder that all that is written goes into.
    reads : str
        One of the files that it reads.
    after : str or None
        The command whose output it reads.
    alone : bool
        It refuses a second run into the same output.
    parallel : bool
        Other processes work for it.
    """

    words: tuple[str, ...]
    reads: str
    after: str | None = None
    alone: bool = True
    parallel: bool = False


COMMANDS = {
    "convert": Command(("convert", "ccellbio", "--out", "{}/out"), f"{RAW}/images/20.bmp",
                       parallel=True),
    "train": Command(("train", "ccellbio", "--out", "{}/out", "-S", "machine.scratch={}/scratch"),
                     f"{COCO}/images/20.png", "convert", parallel=True),
    "evaluate": Command(("evaluate", "ccellbio", "-o", "{}/out"), f"{COCO}/images/20.png", "train",
                        parallel=True),
    "report": Command(("report", "runs", "-o", "{}/out"), "runs/ccellbio/evaluate/details.json",
                      "evaluate", alone=False),
    "predict": Command(("predict", f"{RAW}/images", "-o", "{}/out", "--checkpoint", MODEL,
                        "--workers", "2", "--device", "cpu", "--overlays", "all"),
                       f"{RAW}/images/20.bmp", "train", parallel=True),
    "export": Command(("export", MODEL, "-o", "{}/out/model.onnx", "--images", f"{COCO}/images"),
                      MODEL, "train", alone=False),
    "check": Command(("check", "--mark", "{}/out/mark"), "params.yaml", alone=False),
}  # fmt: skip


def make_raw(world: Path) -> None:
    """Raw files in YOLO's layout, with odd names, and small parameters."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree |= {"datasets": ["ccellbio"]}
    tree["recipes"]["sample"] |= {"image_size": 64, "batch_size": 4}
    tree["recipes"]["sample"]["epochs"]["ccellbio"] = 2
    tree["machine"] |= {"workers": 2, "checkpoint_minutes": 0.0, "device": "cpu"}
    tree["evaluate"] |= {"resamples": 20, "pictures": 2, "gallery": 2}
    (world / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    raw = world / RAW
    (raw / "images").mkdir(parents=True)
    (raw / "labels").mkdir()
    noise = np.random.default_rng(0).integers(0, 90, (48, 64), np.uint8)
    for i in range(IMAGES):
        name = ODD[i] if i < len(ODD) else f"{i}"
        pixels = np.roll(noise, i)
        pixels[10:30, i : i + 20] += 150
        Image.fromarray(pixels).save(raw / "images" / f"{name}.bmp")
        label = f"0 {(i + 10) / 64} {20 / 48} {20 / 64} {20 / 48}\n"
        (raw / "labels" / f"{name}.txt").write_text(label)
    (raw / "classes.txt").write_text("=cell <b>\n")


@dataclass
class World:
    """The project's folder, what each command makes of it, and the process that starts them."""

    folder: Path
    starter: subprocess.Popen
    whole: dict[str, dict[str, bytes]]
    touches: dict[str, int]

    @classmethod
    def start_in(cls, folder: Path) -> "World":
        """A world in which nothing has run yet."""
        make_raw(folder)
        pipe = subprocess.PIPE
        starter = subprocess.Popen(
            [sys.executable, str(CELL)], stdin=pipe, stdout=pipe, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return cls(folder, starter, {}, {})

    def undisturbed(self, name: str) -> dict[str, bytes]:
        """What a command makes of what the ones before it have made; run when first asked for."""
        if name in self.whole:
            return self.whole[name]
        if (before := COMMANDS[name].after) is not None:
            self.undisturbed(before)
        place = self.folder / "places" / name
        ended = self.run(name, place, count=str(self.folder / "count"))
        assert ended.status == 0, ended.said
        self.whole[name] = content(place / "out")
        self.touches[name] = int((self.folder / "count").read_text())
        if name in ("convert", "train", "evaluate"):
            target = COCO if name == "convert" else f"runs/ccellbio/{name}"
            shutil.copytree(place / "out", self.folder / target, dirs_exist_ok=True)
        if name == "evaluate":
            (self.folder / "runs/metrics").mkdir()
            shutil.copy(place / "out/ccellbio.json", self.folder / "runs/metrics")
        return self.whole[name]

    def copy(self, to: Path) -> Path:
        """The project's input once more, to be harmed."""
        return shutil.copytree(self.folder, to, ignore=shutil.ignore_patterns("places"))

    def start(self, name: str, place: Path, *, cwd: Path | None = None, **harm: Any) -> "Started":
        """Start a command in a session of its own; `harm` as in cell.py."""
        job = self._job(name, place, cwd, harm)
        return Started(self._ask({"start": job}), job["said"])

    def run_afresh(self, name: str, place: Path, *, cwd: Path | None = None,
                   before: tuple[str, ...] = (), env: dict[str, str | None] | None = None,
                   **harm: Any) -> "Ended":  # fmt: skip
        """Run a command from nothing: another environment, or a program before it."""
        job = self._job(name, place, cwd, harm)
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
        words = [*before, sys.executable, str(CELL), json.dumps(job)]
        done = subprocess.run(
            words, timeout=SECONDS, check=False, capture_output=True, text=True,
            env={key: value for key, value in variables.items() if value is not None},
        )  # fmt: skip
        assert Path(job["said"]).exists(), done.stderr
        return Ended(done.returncode, Path(job["said"]).read_text(errors="replace"))

    def _job(self, name: str, place: Path, cwd: Path | None, harm: dict[str, Any]) -> dict:
        place.mkdir(parents=True, exist_ok=True)
        words = [word.format(place) for word in COMMANDS[name].words]
        said = str(self.folder / f"said-{place.parent.name}-{time.monotonic_ns()}")
        job = {"words": words, "cwd": str(cwd or self.folder), "said": said}
        return job | {"written": [str(place)]} | harm

    def end(self, started: "Started") -> "Ended":
        """Wait; nothing of its session may be left."""
        status = self._ask({"wait": started.process, "seconds": SECONDS})
        said = Path(started.said).read_text(errors="replace")
        if status == "stopped":
            return Ended(status, said)
        for _ in range(300):  # Python's own helper process ends a moment after its parent
            try:
                os.killpg(started.process, 0)
            except ProcessLookupError:
                return Ended(status, said)
            time.sleep(0.1 if status != "hangs" else 0)
        left = subprocess.run(["ps", "-o", "pid,args", "-s", str(started.process)],
                              capture_output=True, text=True).stdout  # fmt: skip
        os.killpg(started.process, signal.SIGKILL)
        raise AssertionError(f"{status}, and is left behind: {left}\n{said}")

    def run(self, name: str, place: Path, **harm: Any) -> "Ended":
        return self.end(self.start(name, place, **harm))

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self.starter.stdin and self.starter.stdout
        self.starter.stdin.write(json.dumps(question) + "\n")
        self.starter.stdin.flush()
        return json.loads(self.starter.stdout.readline())

    def close(self) -> None:
        assert self.starter.stdin and self.starter.stdout
        self.starter.stdin.close()
        self.starter.wait()
        self.starter.stdout.close()


@dataclass(frozen=True)
class Started:
    process: int
    said: str


@dataclass(frozen=True)
class Ended:
    status: int | str
    said: str


def content(folder: Path) -> dict[str, bytes]:
    """Every file but those that hold times, as bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name not in ("timing.json", "timing.csv")
    }
