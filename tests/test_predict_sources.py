import gzip
import json
import zipfile
from io import BytesIO
from pathlib import Path
from shutil import copyfile

import numpy as np
import pydicom.data
import pytest
from dicom_factory import ROOT, gdcm_transcode, image_dataset, save, write
from PIL import Image
from predict_factory import BrightSpots, content, rows_of, spot, tiny_model
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import DescryError
from pipeline.predict import sources
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder, survey
from pipeline.predict.sources import find_files

HERE = Options(workers=0)


def run(source, out, **options):
    """Counts and, per file that was not processed, its reason."""
    summary = predict_folder(
        source, out, BrightSpots(), options=Options(**{"workers": 0, **options})
    )
    rows = rows_of(out / "failures.csv") + rows_of(out / "skipped.csv")
    return summary.counts, {row["path"]: row["kind"] for row in rows}


def dicom(value=255, **elements):
    """Bytes of a DICOM file."""
    stream = BytesIO()
    save(image_dataset(spot(value), **elements), stream)
    return stream.getvalue()


def zipped(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_members_of_archives_are_read_like_files(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    png = BytesIO()
    Image.fromarray(spot()).save(png, "PNG")
    files = {"a/b/IM1": dicom(), "a/IM2.dcm": dicom(100), "p.png": png.getvalue(), "t.txt": b"x"}
    zipped(folder / "deep" / "scans.ZIP", files)
    counts, reasons = run(folder, tmp_path / "out", workers=1)
    assert (counts["files"], counts["processed"], counts["skipped"]) == (4, 3, 1)
    assert reasons == {"deep/scans.ZIP/t.txt": "neither DICOM nor an image"}
    found = [row["path"] for row in rows_of(tmp_path / "out" / "detections.csv")]
    assert found == ["deep/scans.ZIP/a/b/IM1", "deep/scans.ZIP/p.png"]
    alone, _ = run(folder / "deep" / "scans.ZIP", tmp_path / "alone")
    assert alone == counts
    listed = survey(folder, tmp_path / "out", BrightSpots(), HERE)
    assert [r.ended.status for r in listed] == ["processed"] * 3 + ["skipped"]


def test_archives_without_ending_and_single_files_of_gzip(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    zipped(folder / "export", {"a/IM1": dicom()})
    zipped(folder / "1.2.840.5", {"IM2": dicom(100)})
    zipped(folder / "letter.docx", {"word/media/image1": dicom()})
    for name, data in (("IM3.dcm.gz", dicom()), ("IM4.GZ", dicom()), ("t.txt.gz", b"x")):
        (folder / name).write_bytes(gzip.compress(data))
    (folder / "cut.gz").write_bytes(gzip.compress(dicom())[:-30])
    (folder / "named.gz").write_bytes(dicom())  # not packed at all
    (folder / "bomb.gz").write_bytes(gzip.compress(bytes(2**26 + 1)))
    for workers in (0, 1):
        counts, reasons = run(folder, tmp_path / f"out{workers}", workers=workers)
        assert reasons == {
            "letter.docx": "neither DICOM nor an image",
            "t.txt.gz": "neither DICOM nor an image",
            "cut.gz": "damaged archive",
            "bomb.gz": "too large",
        }
        assert (counts["files"], counts["processed"]) == (9, 5)
    found = [row["path"] for row in rows_of(tmp_path / "out1" / "detections.csv")]
    assert found == ["IM3.dcm.gz", "IM4.GZ", "export/a/IM1", "named.gz"]


def test_an_archive_gives_what_its_folder_gives(tmp_path):
    folder = tmp_path / "x" / "scans.zip"  # a folder may be called that too
    folder.mkdir(parents=True)
    for i in range(5):
        write(folder / f"{i}", spot(at=(i, i, 4, 5)), InstanceNumber=9 - i, SOPInstanceUID=f"1.{i}")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    (tmp_path / "y").mkdir()
    zipped(tmp_path / "y" / "scans.zip", files)
    run(folder.parent, tmp_path / "one")
    run(tmp_path / "y", tmp_path / "two", workers=1)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(rows_of(tmp_path / "one" / "detections.csv")) == 5


def test_bad_archives_and_members_cost_themselves_only(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    zipped(folder / "empty.zip", {})
    (folder / "no.zip").write_bytes(b"PK\3\4 and then nothing")
    zipped(folder / "nest.zip", {"inner.zip": zipped(tmp_path / "i", {"a": b"x"}).read_bytes()})
    zipped(folder / "odd.zip", {"a": dicom()}, zipfile.ZIP_BZIP2)
    good = dicom()
    cut = bytearray(
        zipped(folder / "crc.zip", {"a": good, "b": good}, zipfile.ZIP_STORED).read_bytes()
    )
    cut[200 + 200] ^= 255  # in the first member
    (folder / "crc.zip").write_bytes(cut)
    secret = bytearray(zipped(folder / "pw.zip", {"a": good}).read_bytes())
    secret[6] |= 1  # the flag of encryption, in both headers
    secret[secret.index(b"PK\1\2") + 8] |= 1
    (folder / "pw.zip").write_bytes(secret)
    counts, reasons = run(folder, tmp_path / "out")
    assert reasons == {
        "empty.zip": "archive without files",
        "no.zip": "damaged archive",
        "nest.zip/inner.zip": "archive within an archive",
        "odd.zip/a": "cannot unpack",
        "crc.zip/a": "damaged archive",
        "pw.zip/a": "encrypted",
    }
    assert (counts["files"], counts["processed"]) == (7, 1)


def test_decompression_bombs_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 10**6)
    monkeypatch.setattr(sources, "FREE_BYTES", 10**5)
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, 200_000, np.uint8).tobytes()
    files = {
        "big": bytes(10**6 + 1),
        "dense": bytes(200_000),
        "noise": noise,
        "small": bytes(10**5),
    }
    zipped(folder / "bomb.zip", files)
    _, reasons = run(folder, tmp_path / "out")
    assert reasons == {
        "bomb.zip/big": "too large",
        "bomb.zip/dense": "too large",
        "bomb.zip/noise": "neither DICOM nor an image",
        "bomb.zip/small": "neither DICOM nor an image",
    }
    lying = bytearray((folder / "bomb.zip").read_bytes())
    for mark, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # "big" says that it has 5 bytes
        start = lying.index(mark)
        lying[start + at : start + at + 4] = (5).to_bytes(4, "little")
    (folder / "bomb.zip").write_bytes(lying)
    _, reasons = run(folder, tmp_path / "out")
    assert reasons["bomb.zip/big"] in ("damaged archive", "neither DICOM nor an image")


def dicomdir(folder, *files):
    """A DICOMDIR that refers to `files`, each a tuple of parts; records without a file too."""
    dataset = Dataset()
    records = [Dataset()]
    records[0].DirectoryRecordType = "PATIENT"
    for parts in files:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", list(parts)
        records.append(record)
    dataset.DirectoryRecordSequence = records
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = ROOT + "5"
    dataset.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def test_a_dicomdir_is_read_as_source_and_skipped_in_a_folder(tmp_path):
    folder = tmp_path / "cd"
    (folder / "PA000").mkdir(parents=True)
    for name in ("PA000/IM1", "PA000/IM3", "EXTRA"):
        write(folder / name, spot())
    index = dicomdir(folder, ("PA000", "IM1"), ("PA000", "IM2"), ("PA000", "IM3"))
    counts, reasons = run(folder, tmp_path / "all")
    assert (counts["processed"], reasons) == (3, {"DICOMDIR": "not an image object"})
    (row,) = rows_of(tmp_path / "all" / "skipped.csv")
    assert row["message"] == "DICOMDIR: its files are found by themselves"
    counts, reasons = run(index, tmp_path / "some")
    assert (counts["processed"], reasons) == (2, {"PA000/IM2": "cannot open"})


@pytest.mark.parametrize(
    ("there", "listed"),
    [
        ("pa000/im1", ["pa000/im1"]),
        ("PA000/IM1.dcm", ["PA000/IM1.dcm"]),
        ("Pa000/Im1.DCM", ["Pa000/Im1.DCM"]),
        ("PA000/IM1;1", ["PA000/IM1;1"]),
        ("PA000/IM1.txt", ["PA000/IM1"]),  # something else
        ("PA001/IM1", ["PA000/IM1"]),
    ],
)
def test_files_of_a_copied_medium_are_found(tmp_path, there, listed):
    """A record names PA000/IM1; copying changed its case, or gave it an ending."""
    (tmp_path / there).parent.mkdir()
    write(tmp_path / there, spot())
    index = dicomdir(tmp_path, ("PA000", "IM1"))
    assert find_files(index, tmp_path / "out") == listed


def test_names_that_differ_by_case_alone_are_not_guessed(tmp_path):
    for name in ("im1", "Im1"):
        write(tmp_path / name, spot())
    index = dicomdir(tmp_path, ("IM1",), ("im1",))
    assert find_files(index, tmp_path / "out") == ["IM1", "im1"]


def test_a_damaged_or_malicious_dicomdir_is_refused(tmp_path):
    for files, message in (((("..", "x"),), "outside of its folder"), ((), "lists no files")):
        with pytest.raises(DescryError, match=message):
            find_files(dicomdir(tmp_path, *files), tmp_path / "out")
    index = dicomdir(tmp_path, ("PA000", "IM1"))
    index.write_bytes(index.read_bytes()[:-30])
    with pytest.raises(DescryError, match="give its folder"):
        find_files(index, tmp_path / "out")


def test_all_of_pydicoms_own_files_are_accounted_for(tmp_path):
    """What pydicom brings along for its tests: many syntaxes, non-images, damaged files."""
    folder = tmp_path / "in"
    folder.mkdir()
    bundled = Path(pydicom.data.__file__).parent / "test_files"
    for number, path in enumerate(sorted(bundled.rglob("*"))):
        if path.is_file():
            copyfile(path, folder / f"{number:03d}-{path.name}")
    counts, reasons = run(folder, tmp_path / "out", workers=1, overlays="none")
    assert counts["files"] == len(list(folder.iterdir())) > 50
    assert counts["files"] == counts["processed"] + counts["skipped"] + counts["failed"]
    assert len(reasons) == counts["skipped"] + counts["failed"]
    assert all(reasons.values()) and "internal error" not in reasons.values()


def test_all_lossless_forms_of_one_picture_give_the_same_detections(tmp_path):
    """Codings, byte orders, the negative with its MONOCHROME1, and the exported PNG."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(5)
    pixels = np.clip(rng.normal(2000, 700, (48, 40)), 0, 4095).astype(np.uint16)
    pixels[10:30, 8:25] += 600  # up to 4695: values are cut where 12 bits end
    pixels = np.minimum(pixels, 4095)
    for syntax in (
        uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
    ):  # fmt: skip
        save(image_dataset(pixels, BitsStored=12), folder / syntax, syntax)
    for syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        gdcm_transcode(folder / uid.ExplicitVRLittleEndian, folder / syntax, syntax)
    negative = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12}
    write(folder / "negative", 4095 - pixels, **negative)
    Image.fromarray(pixels).save(folder / "exported.png")
    options = Options(workers=0, overlays="none", score_threshold=0.0)
    predict_folder(folder, tmp_path / "out", tiny_model(), options=options)
    keys = ("class", "score", "x_px", "y_px", "width_px", "height_px")
    found = {}
    for row in rows_of(tmp_path / "out" / "detections.csv"):
        found.setdefault(row["path"], []).append([row[key] for key in keys])
    first = found["exported.png"]
    assert len(found) == 11 and len(first) == 20
    assert all(rows == first for rows in found.values())


def test_the_command_lists_what_it_would_read_and_then_reads_it(tmp_path):
    write(tmp_path / "a.dcm", spot())
    (tmp_path / "notes.txt").write_text("x")
    tiny_model().save(tmp_path / "model.safetensors")
    source = zipped(
        tmp_path / "in.zip", {n: (tmp_path / n).read_bytes() for n in ("a.dcm", "notes.txt")}
    )
    call = [
        "predict",
        source,
        "-o",
        tmp_path / "out",
        "--checkpoint",
        tmp_path / "model.safetensors",
        "--tta",
    ]
    listed = CliRunner().invoke(app, [*map(str, call), "--dry-run"])
    assert listed.stdout.splitlines() == [
        "processed\tin.zip/a.dcm",
        "skipped\tin.zip/notes.txt\tneither DICOM nor an image",
    ]
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*map(str, call), "--threshold", "0", "--precision", "bf16"])
    assert done.exit_code == 0, done.output
    assert "files 2, processed 1, skipped 1, failed 0" in done.stdout
    assert len(rows_of(tmp_path / "out" / "detections.csv")) > 20  # of two views of 20 each
    told = CliRunner().invoke(app, [*map(str, call), "--threshold", "0", "--json"])
    counts = json.loads((tmp_path / "out/run.json").read_text())["counts"]
    assert json.loads(told.stdout) == {"out": str(tmp_path / "out"), "counts": counts}
    for wrong, message in (
        (call[2:], "either a folder or --from"),
        ([*call, "--json", "--dry-run"], "--json is about a run"),
        ([*call, "--query", "Modality=CR"], "goes with --from"),
        ([*call, "--to", "dicom://A@b:1"], "add --sr, --gsps, --sc or --seg"),
        ([*call, "--window", "tiny"], "allowed is auto, off"),
    ):
        words = [str(word) for word in (wrong if wrong[0] == "predict" else ["predict", *wrong])]
        with pytest.raises(DescryError, match=message):
            app(words, standalone_mode=False)
