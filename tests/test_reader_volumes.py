"""Volumes become slices the right way up, with the boxes of their labels, one case in one split."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_readers import OPTIONS, reasons
from toy_source import opened

from pipeline.convert import convert
from pipeline.convert.formats.volumes import open_volume, slice_of
from pipeline.convert.records import Ledger
from pipeline.data.images import read_image
from pipeline.errors import DescryError

nib = pytest.importorskip("nibabel", reason="pip install 'descry[volumes]'")
nrrd = pytest.importorskip("nrrd", reason="pip install 'descry[volumes]'")

SHAPE = (6, 8, 5)  # to the patient's left, back and head
FLIPS = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1), "LAI": (1, -1, -1)}


def in_lps(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, SHAPE, dtype=np.uint8)


def tumour() -> np.ndarray:
    """Values 1 and 2 in the third slice from the feet, 1 also in the fourth."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:6, 2:4] = 1  # 2 to the left, 4 to the back
    labels[4:6, 0:2, 2] = 2
    return labels


def write(path: Path, values: np.ndarray, axes: str = "LPS") -> None:
    """A file whose axes count to where `axes` says, of voxels of 1 x 2 x 3 mm in LPS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signs = FLIPS[axes]
    stored = values[tuple(slice(None, None, sign) for sign in signs)]
    if ".nii" in path.name:
        to_ras = np.diag([-1.0, -2.0, 3.0]) @ np.diag(signs)
        affine = np.eye(4)
        affine[:3, :3] = to_ras
        nib.save(nib.Nifti1Image(stored, affine), path)
    else:
        directions = np.diag([1.0, 2.0, 3.0]) @ np.diag(signs)
        header = {"space": "left-posterior-superior", "space directions": directions}
        nrrd.write(str(path), stored, header | {"space origin": np.zeros(3)})


@pytest.mark.parametrize("end", ["nii.gz", "nii", "nrrd"])
@pytest.mark.parametrize("axes", FLIPS)
def test_a_volume_is_turned_to_the_patient(tmp_path, end, axes):
    values = in_lps()
    write(tmp_path / f"a.{end}", values, axes)
    found = open_volume(tmp_path / f"a.{end}", pixels=True)
    assert found.shape == SHAPE and found.spacing == pytest.approx((1, 2, 3))
    assert np.array_equal(found.values, values)
    assert open_volume(tmp_path / f"a.{end}").shape == SHAPE


def test_axes_that_change_places(tmp_path):
    values = in_lps()
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 3, -1, -2, 1  # head, left, back
    nib.save(nib.Nifti1Image(values.transpose(2, 0, 1), affine), tmp_path / "a.nii")
    found = open_volume(tmp_path / "a.nii", pixels=True)
    assert found.spacing == pytest.approx((1, 2, 3)) and np.array_equal(found.values, values)


@pytest.mark.parametrize(
    ("plane", "corners"),
    [
        # value at the top left, top right and bottom left corner, as [to left, back, head]
        ("axial", ([0, 0, 2], [5, 0, 2], [0, 7, 2])),
        ("coronal", ([0, 2, 4], [5, 2, 4], [0, 2, 0])),
        ("sagittal", ([2, 0, 4], [2, 7, 4], [2, 0, 0])),
    ],
)
def test_slices_as_a_radiologist_sees_them(plane, corners):
    values = in_lps()
    shown = slice_of(values, plane, 2)
    assert [shown[0, 0], shown[0, -1], shown[-1, 0]] == [values[tuple(c)] for c in corners]


CASES = [
    # (image, labels, split, key of its first slice)
    ("imagesTr/p1_0000.nii.gz", "labelsTr/p1.nii.gz", "train", "imagesTr/p1_0000/axial_0000"),
    ("imagesTs/p1.nii.gz", "labelsTs/p1.nii.gz", "test", "imagesTs/p1/axial_0000"),
    ("images/p1.nrrd", "labels/p1.nrrd", None, "images/p1/axial_0000"),
    ("images/p1.nrrd", "masks/p1_mask.nrrd", None, "images/p1/axial_0000"),
    ("p1/p1_flair.nii.gz", "p1/p1_seg.nii.gz", None, "p1/p1_flair/axial_0000"),
    ("p1/image.nii", "p1/mask.nii", None, "p1/image/axial_0000"),
    ("x/p1-ct.nii", "x/p1-label.nii", None, "p1-ct/axial_0000"),
]


@pytest.mark.parametrize(("image", "labels", "split", "key"), CASES)
def test_where_volumes_and_labels_lie(tmp_path, image, labels, split, key):
    raw = tmp_path / "raw"
    write(raw / image, in_lps())
    write(raw / labels, tumour(), "RAS")
    ledger = Ledger()
    records = list(opened("spots", raw).scan(ledger))
    assert len(records) == 5 and ledger.drops == []
    assert records[0].key.endswith(key) and {r.split for r in records} == {split}
    assert len({r.group for r in records}) == 1 and records[0].group


def cases(raw: Path, number: int = 8) -> Path:
    for case in range(number):
        write(raw / f"imagesTr/p{case}_0000.nii.gz", in_lps(case))
        write(raw / f"imagesTr/p{case}_0001.nii.gz", in_lps(case + 50))
        write(raw / f"labelsTr/p{case}.nii.gz", tumour(), "RAS")
    return raw


def converted(raw: Path, out: Path, **params: object) -> tuple[dict, list[tuple[dict, list]], dict]:
    """The report, images with their boxes and classes, and the split of each case."""
    report = convert(opened("spots", raw, **params), out, **OPTIONS)
    found, split_of = [], {}
    for split in ("train", "val", "test"):
        coco = json.loads((out / f"annotations/{split}.json").read_text())
        names = {one["id"]: one["name"] for one in coco["categories"]}
        for image in coco["images"]:
            rows = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
            found.append((image, [(*a["bbox"], names[a["category_id"]]) for a in rows]))
            split_of.setdefault(image["group"], set()).add(split)
    return report, found, split_of


def test_slices_and_boxes_of_a_nnunet_folder(tmp_path):
    raw = cases(tmp_path / "raw")
    (raw / "dataset.json").write_text('{"labels": {"background": 0, "tumour": 1, "oedema": 2}}')
    report, found, split_of = converted(raw, tmp_path / "out")
    assert report["images"] == {"in": 40, "out": 40, "dropped": {}}
    assert report["files"] == {
        "found": 25, "used as images": 8, "used as annotations": 9, "dropped": 8, "unused": {},
    }  # fmt: skip
    assert len(split_of) == 8 and all(len(splits) == 1 for splits in split_of.values())
    by_slice = {(i["group"], i["attributes"]["slice"]): (i, b) for i, b in found}
    image, boxes = by_slice["volume imagesTr/p3_0000", 2]
    assert boxes == [(1, 2, 2, 4, "tumour"), (4, 0, 2, 2, "oedema")]
    assert by_slice["volume imagesTr/p3_0000", 3][1] == [(1, 2, 2, 4, "tumour")]
    assert by_slice["volume imagesTr/p3_0000", 0][1] == []
    assert image["attributes"]["pixel_spacing_mm"] == [1, 2]
    written = read_image(tmp_path / "out/images" / image["file_name"]).pixels
    assert np.array_equal(written, in_lps(3)[:, :, 2].T)


def test_another_channel_and_plane(tmp_path):
    raw = cases(tmp_path / "raw", 4)
    _, found, _ = converted(raw, tmp_path / "out", channel="_0001", plane="coronal", group=r"p\d")
    image, boxes = next(
        (i, b) for i, b in found if i["group"] == "p2" and i["attributes"]["slice"] == 3
    )
    assert (image["width"], image["height"]) == (6, 5) and len(found) == 32
    assert boxes == [(1, 1, 2, 2, "object")]  # rows from the head: slices 3 and 2 are rows 1 and 2
    written = read_image(tmp_path / "out/images" / image["file_name"]).pixels
    assert np.array_equal(written, in_lps(52)[:, 3, ::-1].T)


def test_what_cannot_be_used_is_listed(tmp_path):
    raw = cases(tmp_path / "raw", 3)
    write(raw / "imagesTr/alone.nii.gz", in_lps())
    write(raw / "labelsTr/lost.nii.gz", tumour())
    write(raw / "imagesTr/small_0000.nii.gz", in_lps()[:4])
    write(raw / "labelsTr/small.nii.gz", tumour())
    (raw / "imagesTr/bad_0000.nii.gz").write_bytes(b"no volume")
    write(raw / "labelsTr/bad.nii.gz", tumour())
    ledger = Ledger()
    records = list(opened("spots", raw).scan(ledger))
    assert len(records) == 15
    assert reasons(ledger) == {
        ("imagesTr/alone.nii.gz", "image without annotation"),
        ("labelsTr/lost.nii.gz", "mask without image"),
        ("imagesTr/small_0000.nii.gz", "mask size differs from image size"),
        ("imagesTr/bad_0000.nii.gz", "corrupt image"),
        *((f"imagesTr/p{case}_0001.nii.gz", "another channel of the case") for case in range(3)),
    }
    with pytest.raises(DescryError, match="slices of volumes are not cut"):
        list(opened("spots", raw, tile=4).scan(Ledger()))


def test_names_that_3d_slicer_writes(tmp_path):
    raw = tmp_path / "raw"
    write(raw / "p1.nrrd", in_lps())
    names = {"Segment0_LabelValue": "2", "Segment0_Name": "node"}
    header = {"space": "left-posterior-superior", "space directions": np.eye(3)}
    nrrd.write(str(raw / "p1.seg.nrrd"), tumour(), header | names)
    source = opened("spots", raw)
    records = {record.key: record for record in source.scan(Ledger())}
    assert [name for name, _ in source.categories()] == ["value 1", "node"]
    picture = source.read(records["p1/axial_0002"])
    assert [box.label for box in picture.boxes] == ["value 1", "node"]


def test_floats_without_a_value_and_slices_without_any(tmp_path):
    raw, values = tmp_path / "raw", in_lps().astype(np.float32) - 100
    values[0, 0, 1], values[:, :, 4] = np.nan, 7
    write(raw / "a.nii", values)
    write(raw / "a_seg.nii", tumour())
    report, found, _ = converted(raw, tmp_path / "out")
    assert report["images"]["dropped"] == {"slice of one value, without objects": 1}
    assert report["remarks on images"] == {"values that are no numbers shown as the lowest": 1}
    assert len(found) == 4
