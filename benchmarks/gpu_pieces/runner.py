"""Units in processes of their own, under a time limit."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_pieces.store import ROOT, Place
from gpu_pieces.units import WITH_DATA, Unit
from pipeline.errors import DescryError

SCRIPT = ROOT / "benchmarks" / "gpu.py"
LONGEST = 600.0  # seconds; no unit may take more
RESERVE = 15.0  # seconds kept back at the end to stop a process and write the summary
Launch = Callable[[str, dict[str, Any], dict[str, str], float], dict[str, Any]]


def say(line: str) -> None:
    """Print at once, so that a command that is killed has said how far it came."""
    print(line, flush=True)


class OutOfTime(Exception):
    """A process was stopped because its time was over."""


def launch(
    kind: str, parameters: dict[str, Any], environment: dict[str, str], limit: float
) -> dict[str, Any]:
    """Do a unit in a fresh process and return its answer.

    Raises
    ------
    OutOfTime
        When it took longer than `limit` seconds; it is stopped, its loader processes too.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, reply = Path(folder) / "request.json", Path(folder) / "reply.json"
        request.write_text(json.dumps({"kind": kind, "parameters": parameters}), encoding="utf-8")
        code = _run([sys.executable, str(SCRIPT), "--child", str(request), str(reply)],
                    environment, limit)  # fmt: skip
        if reply.is_file():
            return json.loads(reply.read_text(encoding="utf-8"))
        return {"status": "failed", "reason": f"the process ended with code {code}; see its output"}


def _run(command: list[str], environment: dict[str, str], limit: float) -> int:
    """Exit code; the process leads a group, so that none of its children outlives it.

    Its standard input is a pipe that nothing is written to: that it breaks tells the process that
    this one is gone.
    """
    variables = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"} | environment
    with subprocess.Popen(
        command, env=variables, stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise OutOfTime from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@dataclass(slots=True)
class Runner:
    """Does units one after the other and knows what is left.

    Attributes
    ----------
    limit : float
        Seconds for everything, counted from `start`; infinite by default.
    coco : str
        The converted dataset, for units that need it.
    workers : int
        Loader processes of such a unit.
    left : dict
        "piece/name" -> why it has not been done.
    """

    place: Place
    limit: float = float("inf")
    coco: str = ""
    workers: int = 0
    launch: Launch = launch
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = say
    start: float = field(init=False)
    left: dict[str, str] = field(default_factory=dict)
    lasted: dict[tuple[object, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = self.clock()

    @property
    def remaining(self) -> float:
        """Seconds until the limit, less the reserve."""
        return self.limit - RESERVE - (self.clock() - self.start)

    def run(self, units: Iterable[Unit]) -> None:
        """Do what is not done; one that does not fit is not started, a shorter one may."""
        for unit in units:
            found = self.place.record(unit)
            if found is not None and found["status"] == "done":
                self._learn(unit, float(found["seconds"]))
                self.say(f"{unit.piece}/{unit.name}: there already")
            else:
                self._try(unit)

    def expected(self, unit: Unit) -> float:
        """The longest that one like it took so far, or the plan's guess."""
        return self.lasted.get(_like(unit), unit.seconds)

    def _learn(self, unit: Unit, seconds: float) -> None:
        self.lasted[_like(unit)] = max(seconds, self.lasted.get(_like(unit), 0.0))

    def _try(self, unit: Unit) -> None:
        name, expected = f"{unit.piece}/{unit.name}", self.expected(unit)
        if expected > self.remaining:
            self.left[name] = f"not started: {expected:.0f} s do not fit into the time limit"
            self.say(f"{name}: {self.left[name]}")
            return
        key, begin = self.place.key(unit), self.clock()
        try:
            answer = self._answer(unit)
        except OutOfTime:
            self.left[name] = f"stopped after {self.clock() - begin:.0f} s: out of time"
            self.say(f"{name}: {self.left[name]}")
            return
        taken = self.clock() - begin
        if self.place.key(unit) != key:
            answer = {"status": "failed", "reason": "code or parameters changed while it ran"}
        self.place.write(unit, answer, taken)
        if answer["status"] == "done":
            self._learn(unit, taken)
        else:
            self.left[name] = f"{answer['status']}: {answer['reason']}"
        self.say(f"{name}: {answer.get('reason', 'done')} ({taken:.0f} s)")

    def _answer(self, unit: Unit) -> dict[str, Any]:
        data = {"coco": self.coco, "workers": self.workers}  # the result does not depend on where
        where = data if unit.kind in WITH_DATA else {}
        limit = min(LONGEST, self.remaining)
        return self.launch(unit.kind, unit.parameters | where, unit.environment, limit)

    def must(self, kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The result of preparatory work, without which nothing goes on.

        Raises
        ------
        DescryError
            With the reason that the work gives.
        """
        try:
            answer = self.launch(kind, parameters, {}, min(LONGEST, self.remaining))
        except OutOfTime:
            raise DescryError(f"{kind}: out of time; raise --time-limit") from None
        if answer["status"] != "done":
            raise DescryError(f"{kind}: {answer['reason']}")
        return answer["result"]


def _like(unit: Unit) -> tuple[object, ...]:
    """The same for units that take about as long."""
    return unit.kind, unit.seconds, unit.parameters.get("side")
