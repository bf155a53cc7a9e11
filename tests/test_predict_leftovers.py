"""What a stopped run wrote for files that it did not finish must not be in the output."""

from contextlib import contextmanager

import pytest
from dicom_factory import ROOT, write
from predict_factory import BrightSpots, content, spot

from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.pixels import frames
from pipeline.predict import decode
from pipeline.predict.formats import GROWING
from pipeline.predict.options import Objects, Options
from pipeline.predict.results import Results
from pipeline.predict.run import predict_folder

EVERYTHING = Options(workers=0, batch_size=2, objects=Objects(kinds=("sr", "gsps", "sc", "seg")))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(5):
        write(folder / str(i), spot(210 + 10 * i), SOPInstanceUID=f"{ROOT}10{i}")
    return folder


@contextmanager
def killed_before_the_journal_has(chunk):
    """A run that is killed when the files of a chunk (from 1) are written and not yet noted."""
    real, seen = Results.commit, []

    def commit(done, results):
        results = list(results)
        seen.extend([results] if results else [])
        if len(seen) == chunk:
            raise KeyboardInterrupt
        real(done, results)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Results, "commit", commit)
        yield


def time_runs_out_for(monkeypatch, name):
    """From now on the decoder cannot finish this file, as on a machine with too much to do."""

    def slow(header, *rest):
        if header.source.name == name:
            raise DicomError("cannot decode", "no time")
        return frames(header, *rest)

    monkeypatch.setattr(decode, "frames", slow)


def numbers(folder):
    """Which files, from 1, something was written for, by kind."""
    return {
        name: sorted({int(p.name[:6]) for p in (folder / name).rglob("*") if p.name[0] == "0"})
        for name in GROWING
    }


def test_a_file_that_fails_only_after_a_stop_leaves_nothing(source, tmp_path, monkeypatch):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with killed_before_the_journal_has(2):
        predict_folder(source, out, BrightSpots(masked=True), options=EVERYTHING)
    assert all(3 in found for found in numbers(partial).values())
    time_runs_out_for(monkeypatch, "2")
    predict_folder(source, tmp_path / "whole", BrightSpots(masked=True), options=EVERYTHING)
    summary = predict_folder(source, out, BrightSpots(masked=True), options=EVERYTHING)
    assert summary.counts["dicom_objects"] == dict.fromkeys(("sr", "gsps", "sc", "seg"), 4)
    assert numbers(out) == {name: [1, 2, 4, 5] for name in GROWING}
    assert content(out) == content(tmp_path / "whole")


def test_files_that_a_kill_cut_off_are_removed(source, tmp_path):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with killed_before_the_journal_has(2):
        predict_folder(source, out, BrightSpots(masked=True), options=EVERYTHING)
    for name in (".run.json.9.tmp", "sr/.000001-1.2.dcm.9.tmp", "report/thumbnails/.0.jpg.9.tmp"):
        (partial / name).write_bytes(b"half")
    finished = next((partial / "sr").glob("000002-*"))
    before = finished.stat().st_mtime_ns
    predict_folder(source, out, BrightSpots(masked=True), options=EVERYTHING)
    assert not list(out.rglob(".*"))
    assert (out / "sr" / finished.name).stat().st_mtime_ns == before  # not made again
