"""Runs `descry` with something happening to it at its k-th touch of the disk.

``python cell.py JOB`` runs one command (JOB is JSON). Without an argument it imports what takes
long, once, and forks a process for each job that comes on its standard input, a line each:

    {"start": JOB}                  answers its process id
    {"wait": PID, "seconds": N}     answers "stopped", "hangs" or its status

A touch is what Python opens for writing, makes, renames or removes in the folders that the job
names as written, and a line of a journal. So "in the middle of its work" depends on no clock.
"""

import atexit
import json
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

TOUCHES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


class Harm:
    """What happens, and when."""

    def __init__(self, job):
        self.folders = tuple(job["written"])
        self.at, self.does, self.to = job.get("at", 0), job.get("does", ""), job.get("to", "")
        self.touches, self.busy = 0, False

    def hook(self, event, arguments):
        if event in ("socket.connect", "socket.getaddrinfo"):
            if event == "socket.connect" and arguments[0].family == socket.AF_UNIX:
                return
            os.write(2, b"Traceback: the network was asked for\n")
        if self.busy or not self.counts(event, arguments):
            return
        self.touch()

    def counts(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            written = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, written = (arguments[0], True) if event in TOUCHES else ("", False)
        return written and isinstance(path, str | os.PathLike) and self.is_ours(os.fspath(path))

    def is_ours(self, path):
        return isinstance(path, str) and path.startswith(self.folders)

    def touch(self):
        self.touches += 1
        if self.touches == self.at:
            self.busy = True
            getattr(self, self.does)()
            self.busy = False

    def signal(self):
        os.kill(os.getpid(), int(self.to))

    def worker(self):
        """End one of the processes that work for this one."""
        children = [
            int(child)
            for task in Path("/proc/self/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        for child in sorted(children):
            words = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"resource_tracker" not in words:
                os.kill(child, int(self.to))
                return

    def vanish(self):
        Path(self.to).unlink()

    def change(self):
        path = Path(self.to)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])

    def memory(self):
        """Take what is left of the address space away, but for a few megabytes."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + int(self.to) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))


def execute(job):
    """Become the command of a job."""
    os.chdir(job["cwd"])
    os.environ.update(job.get("env", {}))
    stdout = job.get("stdout", "")
    written = stdout if stdout.startswith("/") else job["said"] + ".out"
    for stream, name in enumerate((os.devnull, written, job["said"])):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if stream else os.O_RDONLY
        descriptor = os.open(name, flags, 0o644)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    if stdout == "closed":
        os.close(1)
        sys.stdout = None
    if stdout == "nobody listens":
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader)
        os.close(writer)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    harm = Harm(job)
    if "count" in job:
        atexit.register(lambda: Path(job["count"]).write_text(str(harm.touches)))
    command(job["words"], harm)


def command(words, harm):
    from pipeline.cli import main
    from pipeline.work import journal

    add = journal.Journal.add

    def counted(*arguments, **named):
        harm.touch()
        return add(*arguments, **named)

    journal.Journal.add = counted
    sys.addaudithook(harm.hook)
    sys.argv = ["descry", *words]
    main()


def prepare():
    """Import all that commands import, and start no thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import pipeline.models.export
    import pipeline.predict.formats
    import pipeline.stages.convert
    import pipeline.stages.evaluate
    import pipeline.stages.export
    import pipeline.stages.predict
    import pipeline.stages.report
    import pipeline.stages.train  # noqa: F401


def wait(child, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if done:
            return "stopped" if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return "hangs"


def serve():
    """Answer requests; in a fork return its job."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            if not (answer := os.fork()):
                os.setsid()
                return asked["start"]
        else:
            answer = wait(asked["wait"], asked["seconds"])
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
    return None


if __name__ == "__main__":
    if len(sys.argv) > 1:
        execute(json.loads(sys.argv[1]))
    else:
        prepare()
        with suppress(KeyboardInterrupt):
            job = serve()
        if job is not None:
            execute(job)
