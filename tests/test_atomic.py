"""Whole files or none, and cells that no spreadsheet computes."""

import errno
from pathlib import Path

import pytest

from pipeline.atomic import replacing, unwritable, write_csv, write_json


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.mark.parametrize("former", [b"old\n", None], ids=["replaced", "new"])
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_block_that_fails_leaves_what_was(
    tmp_path: Path, former: bytes | None, mode: str
) -> None:
    path = tmp_path / "deep/a.txt"
    if former is not None:
        path.parent.mkdir()
        path.write_bytes(former)
    before = files(tmp_path)
    with pytest.raises(KeyboardInterrupt), replacing(path, mode) as stream:
        stream.write("half" if mode == "w" else b"half")
        stream.flush()
        assert files(tmp_path).get("deep/a.txt") == former
        raise KeyboardInterrupt
    assert files(tmp_path) == before
    with replacing(path, mode) as stream:
        stream.write("whole ä\n" if mode == "w" else b"whole")
    assert files(tmp_path) == {"deep/a.txt": "whole ä\n".encode() if mode == "w" else b"whole"}


def test_json_is_sorted_and_what_json_cannot_say_leaves_the_former_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1.5], "a": "é"})
    assert files(tmp_path) == {"a.json": b'{\n "a": "\\u00e9",\n "b": [\n  1.5\n ]\n}\n'}
    before = files(tmp_path)
    for value in (float("nan"), float("inf"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "a.json", {"b": [1] * 5000, "c": value})
    assert files(tmp_path) == before


def test_cells_are_no_formulas(tmp_path: Path) -> None:
    cells = ["=1+1", "@SUM(A1)", "+cmd", "-cmd", "\tx", "-1.5", "+3e-7", "a=b", "", -2, 0.1]
    write_csv(tmp_path / "a.csv", ["cell"], ([cell] for cell in cells))
    assert (tmp_path / "a.csv").read_bytes().decode() == (
        "cell\n'=1+1\n'@SUM(A1)\n'+cmd\n'-cmd\n'\tx\n-1.5\n+3e-7\na=b\n\"\"\n-2\n0.1\n"
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_that_one_can_go_on(code: int, tmp_path: Path) -> None:
    message = unwritable(OSError(code, "words of the system"), tmp_path)
    assert "no space left to write (words of the system)" in message and "goes on" in message
    other = OSError(errno.EROFS, "Read-only file system", "there")
    assert unwritable(other, tmp_path) == "there: Read-only file system"
