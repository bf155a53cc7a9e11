"""Commands x faults: a clear end, nothing half under a final name, a restart to the same bytes.

Every cell runs the real command, does something to it, looks at what is left and starts it again.
`make faults` runs all of them, `make test` a sample.
"""

import os
import shutil
import signal
import socket
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from world import COMMANDS, Ended, World, content

from pipeline.work.workspace import UNFINISHED

GO_ON = "interrupted; the same command again goes on from there"
NO_RIGHTS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps",
             "-dac_override,-dac_read_search")  # fmt: skip
NO_SHARED_MEMORY = ("unshare", "--mount", "sh", "-c",
                    'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh")  # fmt: skip


@dataclass
class Cell:
    """One command, the place that it writes to, and the moment at which something happens."""

    world: World
    name: str
    folder: Path
    moment: int

    @property
    def place(self) -> Path:
        return self.folder / "place"

    def run(self, **harm) -> Ended:
        at = self.moment if "does" in harm else 0
        return self.world.run(self.name, self.place, at=at, **harm)

    def afresh(self, **harm) -> Ended:
        return self.world.run_afresh(self.name, self.place, **harm)

    def harmed(self) -> tuple[Path, Path]:
        """A copy of all input, and in it the file that will be harmed."""
        copy = self.world.copy(self.folder / "copy")
        return copy, copy / COMMANDS[self.name].reads


@dataclass(frozen=True)
class Fault:
    """What happens, and what may come of it.

    Attributes
    ----------
    harm : callable
        Takes a cell, runs its command.
    statuses : tuple of int
    says : str
        In its message when it ends with 2.
    whole : bool
        What it has written by then is part of an undisturbed run's output.
    applies : callable
        To which commands.
    """

    harm: Callable[[Cell], Ended]
    statuses: tuple[int, ...]
    says: str = ""
    whole: bool = True
    applies: Callable[[str], bool] = lambda name: True


def signalled(number: int) -> Callable[[Cell], Ended]:
    return lambda cell: cell.run(does="signal", to=int(number))


def worker(number: int) -> Callable[[Cell], Ended]:
    return lambda cell: cell.run(does="worker", to=int(number))


def mid_way(does: str) -> Callable[[Cell], Ended]:
    """Something becomes of a file that it reads, while it runs."""

    def harm(cell: Cell) -> Ended:
        copy, file = cell.harmed()
        return cell.run(cwd=copy, does=does, to=str(file))

    return harm


def beforehand(change: Callable[[Path], object]) -> Callable[[Cell], Ended]:
    """Something has become of a file that it reads, before it starts."""

    def harm(cell: Cell) -> Ended:
        copy, file = cell.harmed()
        change(file)
        return cell.run(cwd=copy)

    return harm


def to_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def to_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def to_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def strangers(file: Path) -> None:
    """What is no file, beside a file."""
    folder = file.parent
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "up").symlink_to("..")
    (folder / "nowhere.png").symlink_to("/nonexistent.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    here = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/socket.png")  # the path alone would be too long
    os.close(here)


def bytes_as_name(file: Path) -> None:
    shutil.copy(file, os.fsencode(file.parent) + b"/\xff\xfe" + os.fsencode(file.suffix))


def unreadable(cell: Cell) -> Ended:
    copy, file = cell.harmed()
    file.chmod(0)
    return cell.afresh(cwd=copy, before=NO_RIGHTS)


def forbidden(cell: Cell) -> Ended:
    cell.place.mkdir()
    cell.place.chmod(0o555)
    ended = cell.afresh(before=NO_RIGHTS)
    cell.place.chmod(0o755)
    return ended


@contextmanager
def disk(cell: Cell, options: str) -> Iterator[None]:
    """A file system of its own in memory, in the cell's place."""
    cell.place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "descry", str(cell.place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a small tmpfs, as root: {' '.join(mount)}: {done.stderr.strip()}")
    yield
    left = cell.folder / "left"
    shutil.copytree(cell.place, left)
    subprocess.run(["umount", str(cell.place)], check=True)
    cell.place.rmdir()
    left.rename(cell.place)


def full_disk(share: float) -> Callable[[Cell], Ended]:
    """Room for a share of what the command writes."""

    def harm(cell: Cell) -> Ended:
        size = sum(map(len, cell.world.undisturbed(cell.name).values()))
        with disk(cell, f"size={int(share * size) // 4096 * 4096 + 8192}"):
            ballast = cell.place / "ballast"
            if share == 0 or cell.name == "check":
                ballast.write_bytes(bytes(8192))
            ended = cell.run()
            ballast.unlink(missing_ok=True)
        return ended

    return harm


def read_only(cell: Cell) -> Ended:
    with disk(cell, "ro"):
        return cell.run()


def two_at_once(cell: Cell) -> Ended:
    """The second starts while the first is at work."""
    harm = {"at": cell.moment, "does": "signal", "to": int(signal.SIGSTOP)}
    first = cell.world.start(cell.name, cell.place, **harm)
    assert cell.world.end(first).status == "stopped"
    second = cell.world.run(cell.name, cell.place)
    os.kill(first.process, signal.SIGCONT)
    ended = cell.world.end(first)
    assert ended.status == 0, ended.said
    return second


FAULTS = {
    "INT": Fault(signalled(signal.SIGINT), (130,), GO_ON),
    "TERM": Fault(signalled(signal.SIGTERM), (-signal.SIGTERM,)),
    "kill -9": Fault(signalled(signal.SIGKILL), (-signal.SIGKILL,)),
    "disk full from the start": Fault(full_disk(0), (2,), "no space left"),
    "disk full midway": Fault(full_disk(0.6), (2,), "no space left"),
    "disk read-only": Fault(read_only, (2,), "Read-only file system"),
    "output forbidden": Fault(forbidden, (2,), "Permission denied"),
    "input unreadable": Fault(unreadable, (0, 1, 2), whole=False),
    "input vanishes": Fault(mid_way("vanish"), (0, 1, 2), whole=False),
    "input changes": Fault(mid_way("change"), (0, 1, 2), whole=False),
    "input is a folder": Fault(beforehand(to_folder), (0, 1, 2), whole=False),
    "input is a pipe": Fault(
        beforehand(to_pipe), (0, 1, 2), whole=False, applies=lambda name: name != "check"
    ),  # who names a pipe as params.yaml means to write into it
    "input is a loop": Fault(beforehand(to_loop), (0, 1, 2), whole=False),
    "pipes, devices, loops": Fault(beforehand(strangers), (0, 1), whole=False),
    "name of bytes": Fault(beforehand(bytes_as_name), (0, 1), whole=False),
    "a worker gets TERM": Fault(
        worker(signal.SIGTERM), (0, 2), "ended from outside",
        applies=lambda name: COMMANDS[name].parallel,
    ),
    "a worker gets KILL": Fault(
        worker(signal.SIGKILL), (0, 1, 2), whole=False,
        applies=lambda name: COMMANDS[name].parallel,
    ),
    "memory runs out": Fault(
        lambda cell: cell.run(does="memory", to=4), (0, 1, 2), "out of memory", whole=False
    ),
    "two at once": Fault(two_at_once, (0, 2), "another run is writing there"),
    "no home, locale C": Fault(
        lambda cell: cell.afresh(env={"HOME": "/nonexistent", "LC_ALL": "C"}), (0,)
    ),
    "ASCII alone": Fault(
        lambda cell: cell.afresh(
            env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        ),
        (0, 1, 2), whole=False,
    ),
    "no shared memory": Fault(lambda cell: cell.afresh(before=NO_SHARED_MEMORY), (0, 2), "shared"),
    "stdout closed": Fault(lambda cell: cell.run(stdout="closed"), (0,)),
    "stdout full": Fault(lambda cell: cell.run(stdout="/dev/full"), (0, 2), "No space left"),
    "nobody listens": Fault(lambda cell: cell.run(stdout="nobody listens"), (0, 2), "Broken pipe"),
}  # fmt: skip
CELLS = [(name, kind) for name in COMMANDS for kind, fault in FAULTS.items() if fault.applies(name)]
SAMPLE = {  # of `make test`: of each kind the one that is soonest done
    ("convert", "INT"), ("convert", "disk full midway"), ("convert", "input changes"),
    ("convert", "output forbidden"),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World.start_in(tmp_path_factory.mktemp("world"))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*cell, marks=() if cell in SAMPLE else [pytest.mark.slow, pytest.mark.faults])
        for cell in CELLS
    ],
)
def test_cell(world, tmp_path, name, kind):
    fault, undisturbed = FAULTS[kind], world.undisturbed(name)
    chance = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
    cell = Cell(world, name, tmp_path, int(chance.integers(1, world.touches[name] + 1)))
    ended = fault.harm(cell)
    assert "Traceback" not in ended.said and "Exception ignored" not in ended.said, ended.said
    assert ended.status in fault.statuses, (ended.status, ended.said)
    assert ended.status not in (2, 130) or fault.says in ended.said, ended.said
    out = cell.place / "out"
    if fault.whole and out.exists() and not (out / UNFINISHED).exists():
        made = {k: v for k, v in content(out).items() if not k.rpartition("/")[2].startswith(".")}
        assert made.items() <= undisturbed.items()
    again = world.run(name, cell.place)
    assert again.status == 0, again.said
    assert content(out) == undisturbed
    assert {path.name for path in cell.place.iterdir()} <= {"out", "scratch"}
    assert not [path for path in (cell.place / "scratch").rglob("*") if path.is_file()]
