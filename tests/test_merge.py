"""`descry merge`: shards together give what one run gives, byte for byte."""

import json
import shutil

import numpy as np
import pytest
from dicom_factory import ROOT, write
from PIL import Image
from predict_factory import BrightSpots, content, spot
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import DescryError
from pipeline.predict.merge import merge
from pipeline.predict.options import Objects, Options
from pipeline.predict.run import predict_folder

AXIAL = [1, 0, 0, 0, 1, 0]


def sliced(folder, number=11):
    """Two series against the order of names, a stack, an image, a broken file, a note."""
    folder.mkdir()
    for i in range(number):
        write(
            folder / f"{i:02d}.dcm",
            spot(at=(i, i, 4, 5)),
            SOPInstanceUID=f"{ROOT}{100 + i}",
            SeriesInstanceUID=f"{ROOT}{3 + i % 2}",
            ImagePositionPatient=[0, 0, -float(i)],
            ImageOrientationPatient=AXIAL,
        )
    write(folder / "a", np.stack([spot(), spot(90), spot()]), 3, SOPInstanceUID=ROOT + "77")
    Image.fromarray(spot()).save(folder / "b.png")
    (folder / "c.dcm").write_bytes(b"broken")
    (folder / "d.txt").write_text("a note")
    return folder


def sharded(folder, out, number, **options):
    for shard in range(number):
        chosen = Options(workers=0, batch_size=3, shard=shard, num_shards=number, **options)
        predict_folder(folder, out, BrightSpots(), options=chosen)
    return out


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (2, {"overlays": "all", "objects": Objects(("sr", "gsps", "sc"))}),
        (5, {"key": b"0123456789abcdef", "pixels": 4}),
        (20, {"overlays": "none"}),  # more than there are files
    ],
)
def test_merged_shards_are_the_bytes_of_one_run(number, options, tmp_path):
    folder = sliced(tmp_path / "in")
    whole = Options(workers=0, batch_size=3, **options)
    summary = predict_folder(folder, tmp_path / "whole", BrightSpots(), options=whole)
    shards = sharded(folder, tmp_path / "shards", number, **options)
    before = content(shards)
    merged = merge(shards, tmp_path / "merged")
    assert merged == summary and merged.counts["files"] == 15 and merged.exit_code == 1
    assert content(tmp_path / "merged") == content(tmp_path / "whole")
    timing = json.loads((tmp_path / "merged/timing.json").read_text())
    assert timing["files"] == 15
    assert content(shards) == before


def test_a_stopped_merge_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch):
    from pipeline.predict import merge as merging

    monkeypatch.setattr(merging, "_CHUNK", 4)
    folder = sliced(tmp_path / "in")
    shards = sharded(folder, tmp_path / "shards", 3)
    merge(shards, tmp_path / "whole")

    def stops(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(shards, tmp_path / "out", progress=stops)
    assert not (tmp_path / "out").exists()
    seen = []
    merge(shards, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(12, 15), (15, 15)]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_one_uid_in_two_shards_needs_the_source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, value in (("a", 255), ("b", 255), ("c", 220), ("d", 220)):  # a, c here; b, d there
        write(folder / name, spot(value), SOPInstanceUID=ROOT + "1")
    write(folder / "e", spot(), SOPInstanceUID=ROOT + "2")
    predict_folder(folder, tmp_path / "whole", BrightSpots(), options=Options(workers=0))
    shards = sharded(folder, tmp_path / "shards", 2)
    with pytest.raises(DescryError, match=r"1 SOP Instance UIDs are in several shards.*--source"):
        merge(shards, tmp_path / "out")
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "a", spot())
    with pytest.raises(DescryError, match="does not hold the files that the shards have read"):
        merge(shards, tmp_path / "out", tmp_path / "other")
    merge(shards, tmp_path / "out", folder)
    ours, theirs = content(tmp_path / "out"), content(tmp_path / "whole")
    assert ours["warnings.csv"].count(b"same UID, other pixels") == 2
    assert_same(ours, theirs)
    objects = {"objects": Objects(("sr", "gsps"))}
    predict_folder(folder, tmp_path / "o", BrightSpots(), options=Options(workers=0, **objects))
    merge(sharded(folder, tmp_path / "os", 4, **objects), tmp_path / "om", folder)
    ours, theirs = content(tmp_path / "om"), content(tmp_path / "o")
    assert len([name for name in ours if name.startswith("sr/")]) == 3  # of a, b and e
    assert_same(ours, theirs)


def test_objects_that_only_one_run_would_have_written_are_missed(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, value in (("a", 220), ("b", 255), ("c", 255), ("d", 220)):  # a, c here; b, d there
        write(folder / name, spot(value), SOPInstanceUID=ROOT + "1")
    shards = sharded(folder, tmp_path / "shards", 2, objects=Objects(("sr",)))
    with pytest.raises(DescryError, match="DICOM objects are missing"):  # of d: b came before it
        merge(shards, tmp_path / "out", folder)


def assert_same(ours, theirs):
    """But for the pages that name the size of batches."""
    named = {"run.json", "report.html"}
    assert {k: v for k, v in ours.items() if k not in named} == {
        k: v for k, v in theirs.items() if k not in named
    }


def changed_run(key, value):
    def change(shards):
        path = shards / "shard-0001-of-0003" / "run.json"
        about = json.loads(path.read_text())
        about[key] = value
        path.write_text(json.dumps(about))

    return change


def remove(name):
    return lambda shards: shutil.rmtree(shards / name)


def other_files(shards):
    (shards.parent / "in" / "later.txt").write_text("")
    options = Options(workers=0, batch_size=3, shard=2, num_shards=3)
    predict_folder(shards.parent / "in", shards, BrightSpots(), options=options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove("shard-0001-of-0003"), r"of 3 shards these are missing or not finished: 1; "),
        (changed_run("checkpoint", {"sha256": "9"}), "run.json differs in checkpoint"),
        (changed_run("image_size", 9), "run.json differs in image_size"),
        (changed_run("versions", {}), "run.json differs in versions"),
        (changed_run("options", {"tta": True}), "run.json differs in options"),
        (other_files, r"not the same \(15 and 16 files"),
        (remove("shard-0002-of-0003/shard"), "shard-0002-of-0003: not a shard"),
        (lambda shards: (shards / "shard-0000-of-0002").mkdir(), "shards of 2 and of 3"),
        (lambda shards: shutil.rmtree(shards), "no finished shard"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, words, tmp_path):
    shards = sharded(sliced(tmp_path / "in"), tmp_path / "shards", 3)
    change(shards)
    with pytest.raises(DescryError, match=words):
        merge(shards, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_different_machines_are_named(tmp_path):
    shards = sharded(sliced(tmp_path / "in"), tmp_path / "shards", 3)
    changed_run("device", "cpu, 9 threads")(shards)
    done = CliRunner().invoke(app, ["merge", str(shards), "-o", str(tmp_path / "out")])
    assert done.exit_code == 1 and "files 15, processed 13, skipped 1, failed 1" in done.output
    told = CliRunner().invoke(app, ["merge", str(shards), "-o", str(tmp_path / "out"), "--json"])
    about = json.loads((tmp_path / "out/run.json").read_text())
    assert json.loads(told.stdout) == {"out": str(tmp_path / "out"), "counts": about["counts"]}
    assert about["device"] == "cpu; cpu, 9 threads"
