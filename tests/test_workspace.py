"""The journal and the growing folder of a long run, and what it says of its progress."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.atomic import hold, release, replacing
from pipeline.errors import DescryError
from pipeline.work import progress
from pipeline.work.journal import Journal
from pipeline.work.progress import Progress
from pipeline.work.workspace import UNFINISHED, Kind, Workspace, filling, open_workspace

ROOT = Path(__file__).parents[1]
KIND = Kind("a conversion", "report.json", "descry conversion")

# --- journal ---


def test_journal_finds_what_was_added_also_after_reopening(tmp_path):
    path = tmp_path / "state" / "journal"
    path.parent.mkdir()
    journal = Journal(path)
    first, second = "0" * 31 + "a", "f" * 32
    places = [journal.add({"key": "ä"}, first), journal.add({"key": "b"}, second)]
    journal.add({"key": "c"})
    assert journal.at(places[0]) == {"key": "ä"}
    journal.__exit__()
    again = Journal(path)
    assert len(again) == 2
    assert [again.find(first), again.find(second), again.find("1" * 32)] == [*places, None]
    assert again.at(places[1]) == {"key": "b"}
    again.__exit__()


def test_a_torn_last_line_is_cut_off(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.add({"n": 1}, "a" * 32)
    journal.__exit__()
    whole = path.read_bytes()
    path.write_bytes(whole + b"b" * 32 + b'{"n": 2')
    again = Journal(path)
    assert again.find("b" * 32) is None
    place = again.add({"n": 3}, "c" * 32)
    assert again.at(place) == {"n": 3}
    again.__exit__()
    assert path.read_bytes() == whole + b"c" * 32 + b'{"n": 3}\n'


def test_a_foreign_file_is_no_journal(tmp_path):
    (tmp_path / "journal").write_text("shopping list\nbread\n")
    with pytest.raises(DescryError, match="not a journal"):
        Journal(tmp_path / "journal")


# --- workspace ---


def _make(folder, content="new"):
    """Write a finished conversion into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(f'{{"format": "{KIND.format}"}}')
    (folder / "content").write_text(content)


def test_output_appears_only_when_published(tmp_path):
    out = tmp_path / "made" / "out"
    with open_workspace(out, KIND) as space:
        _make(space.partial)
        assert not out.exists()
        space.publish()
    assert sorted(p.name for p in out.iterdir()) == ["content", "report.json"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]  # no lock, nothing partial


def test_a_former_conversion_is_replaced_as_a_whole(tmp_path):
    _make(tmp_path / "out", "old")
    (tmp_path / "out" / "stray").touch()
    with open_workspace(tmp_path / "out", KIND) as space:
        _make(space.partial)
        assert (tmp_path / "out" / "content").read_text() == "old"
        space.publish()
    assert (tmp_path / "out" / "content").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert not (tmp_path / "out" / "stray").exists()


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with open_workspace(tmp_path / "out", KIND) as space:
        _make(space.partial)
        space.publish()
    assert (tmp_path / "out" / "content").exists()


def test_a_kill_between_the_two_renames_is_mended(tmp_path):
    space = Workspace(tmp_path / "out")
    _make(space.replaced, "old")
    with open_workspace(tmp_path / "out", KIND):
        assert (tmp_path / "out" / "content").read_text() == "old"
    _make(space.replaced, "older")  # the kill came after the second rename
    with open_workspace(tmp_path / "out", KIND):
        assert (tmp_path / "out" / "content").read_text() == "old"
    assert not space.replaced.exists()


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with (
        pytest.raises(DescryError, match="not a conversion"),
        open_workspace(tmp_path / "out", KIND),
    ):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(DescryError, match="is not a folder"),
        open_workspace(tmp_path / "file", KIND),
    ):
        pass


def test_two_runs_into_one_folder_are_refused(tmp_path):
    out = tmp_path / "out"
    with open_workspace(out, KIND):
        refused = pytest.raises(DescryError, match="another run is writing there")
        with refused, open_workspace(out, KIND):
            pass
        with open_workspace(tmp_path / "other", KIND):
            pass
    with open_workspace(out, KIND):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DescryError, match="file"), open_workspace(tmp_path / "file" / "out", KIND):
        pass


def test_entries_are_read_back_and_cut(tmp_path):
    with Journal(tmp_path / "journal") as journal:
        journal.add_all({"n": n} for n in range(5))
        assert [entry["n"] for _, entry in journal.entries()] == [0, 1, 2, 3, 4]
        journal.cut(2)
        journal.add({"n": 9}, "a" * 32)
        assert [(journal.at(at), entry) for at, entry in journal.entries()] == [
            ({"n": n}, {"n": n}) for n in (0, 1, 9)
        ]
        assert (journal.lines, len(journal)) == (3, 0)
    with Journal(tmp_path / "journal") as journal:
        assert (journal.lines, len(journal)) == (3, 1)
        journal.cut(0)
        assert list(journal.entries()) == [] and journal.find("a" * 32) is None


# --- folders that are filled under final names ---


def test_a_folder_is_marked_until_all_is_there(tmp_path):
    out = tmp_path / "new" / "out"
    with filling(out):
        (out / "a.csv").touch()
        refused = pytest.raises(DescryError, match="another run is writing there")
        with refused, filling(out):
            pass
        assert (out / UNFINISHED).exists()
    assert [path.name for path in out.iterdir()] == ["a.csv"]


def test_what_was_stopped_stays_marked_and_may_begin_again(tmp_path):
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error), filling(tmp_path):
            (tmp_path / "a.csv").write_text("1")
            raise error
        assert (tmp_path / UNFINISHED).exists()
    with filling(tmp_path):
        pass
    with pytest.raises(DescryError), filling(tmp_path):
        raise DescryError("refused before anything was written")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space left to write"),
        (errno.EROFS, "a.csv: Read-only file system"),
        (errno.EACCES, "a.csv: Permission denied"),
    ],
)
def test_what_cannot_be_written_is_told(tmp_path, number, said):
    with pytest.raises(DescryError, match=said), filling(tmp_path):
        raise OSError(number, os.strerror(number), "a.csv")
    with pytest.raises(ConnectionError), filling(tmp_path):
        raise ConnectionError("is no matter of the folder")


# --- progress ---


def test_in_a_pipe_there_is_a_line_now_and_then_with_the_time_left(monkeypatch, caplog):
    now = iter([0.0, 10.0, 10.0, 50.0, 50.0, 50.0, 60.0, *[100.0] * 9])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    caplog.set_level(logging.INFO)
    with Progress("predict", "files") as shown:
        shown(100, 400)  # finished before
        shown(200, 400, "loss 1")
    assert caplog.messages == ["predict: 200 of 400 files, about 0:01:20 left, loss 1"]


def test_what_is_not_to_be_shown_is_silent(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    with Progress("train", "steps", 3, shown=False) as shown:
        shown.advance()
    assert caplog.messages == [] and shown.done == 1


# --- files that are whole or absent ---

HALF = """
import os, sys
from pathlib import Path
from pipeline.atomic import replacing
with replacing(Path(sys.argv[1])) as stream:
    stream.write("half")
    stream.flush()
    os.kill(os.getpid(), int(sys.argv[2]))
    sys.stdin.read()
"""


def half_written(path, number):
    command = [sys.executable, "-c", HALF, str(path), str(int(number))]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)


def test_what_a_killed_process_left_is_taken_over(tmp_path):
    half_written(tmp_path / "a.txt", signal.SIGKILL).communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".a.txt.tmp"]
    with replacing(tmp_path / "a.txt") as stream:
        stream.write("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_two_may_write_one_file_and_neither_is_half(tmp_path):
    other = half_written(tmp_path / "a.txt", signal.SIGSTOP)
    os.waitid(os.P_PID, other.pid, os.WSTOPPED)
    with replacing(tmp_path / "a.txt") as stream:
        stream.write("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    other.send_signal(signal.SIGCONT)
    other.communicate()
    assert (tmp_path / "a.txt").read_text() == "half"  # its last word, as a whole
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_fork_that_outlives_a_run_does_not_hold_its_lock(tmp_path):
    descriptor = hold(tmp_path / "lock")
    reader, writer = os.pipe()
    heard, ready = os.pipe()
    if not (child := os.fork()):
        os.close(writer)
        os.write(ready, b"!")
        os.read(reader, 1)  # lives until the parent lets it go
        os._exit(0)
    os.read(heard, 1)  # the fork has begun
    assert hold(tmp_path / "lock") is None
    release(descriptor)
    again = hold(tmp_path / "lock")
    os.close(writer)
    os.waitpid(child, 0)
    for descriptor in (reader, heard, ready):
        os.close(descriptor)
    assert again is not None
    release(again)
