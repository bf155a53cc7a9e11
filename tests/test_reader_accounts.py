"""The report adds up to the files on disk, whatever lies in a folder and however it is read."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import image_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_dicom_annotations import contour, structure_set
from test_reader_exports import datumaro, labelme, qupath, supervisely
from test_readers import OPTIONS, ROW, YAML, coco_file, picture, two_objects, xml
from toy_source import opened

from pipeline.convert import convert
from pipeline.convert.annotated import LAYOUTS
from pipeline.errors import DescryError

PARTS = st.sampled_from(["a", "b", "B", "a (1)", "\u00e9", "s1/c", "x.jpg", "classes", ".hidden"])
IMAGES = st.sampled_from(["png", "PNG", "jpg", "tif", "gif"])
FOLDERS = st.sampled_from(
    ["", "images/", "images/train/", "images/extra/", "train/images/", "JPEGImages/", "data/"]
)


@functools.cache
def saved(write: Callable[[Path], object], name: str) -> bytes:
    """The bytes of a file that something writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def mask(path: Path) -> None:
    Image.fromarray(two_objects()).save(path)


def dicom(path: Path) -> None:
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 0]}
    dataset = image_dataset(two_objects(9, 8), PixelSpacing=[1, 1], **place)
    dataset.save_as(path, implicit_vr=False, little_endian=True)


def contours(path: Path) -> None:
    square = [1.0, 1.0, 0.0, 9.0, 1.0, 0.0, 9.0, 5.0, 0.0, 1.0, 5.0, 0.0]
    structure_set(path, [contour(square)])


def volume(path: Path) -> None:
    nib = pytest.importorskip("nibabel", reason="pip install 'descry[volumes]'")
    values = np.stack([two_objects(), 0 * two_objects()], axis=-1)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


TABLE = (
    "filename,class,xmin,ymin,xmax,ymax\na.png,cell,1,1,9,9\nb.png,,,,,\ns1/c.png,cell,x,1,2,2\n"
)
# Where annotations lie, how they end, what is in them.
TRUTHS: dict[str, tuple[list[str], list[str], list[object]]] = {
    "yolo": (
        ["labels/", "labels/train/", "train/labels/", "labels/extra/", "obj_train_data/"],
        ["txt", "TXT"],
        [ROW, "", "9 0.5 0.5 0.2 0.2", "no row", f"{ROW}\n{ROW}"],
    ),
    "voc": (
        ["Annotations/", "", "train/"],
        ["xml"],
        [xml("a.png"), xml("", (0, 0, 9, 9)), "<", ""],
    ),
    "coco": (
        ["annotations/", "", "train/"],
        ["json"],
        [coco_file(["a.png", "b.png", "s1/c.png"]), coco_file([])],
    ),
    "masks": (["masks/", "masks/train/", "train/masks/"], ["png"], [mask, "not a mask"]),
    "datumaro": (["annotations/", ""], ["json"], [datumaro(), datumaro(type="label"), "{"]),
    "labelme": (
        ["", "images/", "images/train/", "labels/"],
        ["json"],
        [
            labelme("a.png"),
            labelme("b.png", {}, {"shape_type": "line"}),
            labelme("x", {"points": 1}),
        ],
    ),
    "supervisely": (
        ["ann/", "images/ann/", "train/ann/"],
        ["png.json", "jpg.json"],
        [supervisely(), supervisely({"geometryType": "point"}), "{"],
    ),
    "qupath": (
        ["", "images/"],
        ["geojson"],
        [qupath("Polygon", [[[1, 1], [9, 1], [9, 9]]]), qupath("Point", [1, 1]), '"Feature'],
    ),
    "csv": (["", "annotations/", "train/"], ["csv"], [TABLE, "a.png,1,1,9,9,cell\n", "a,b\n1,2\n"]),
    "volumes": (
        ["images/", "labels/", "imagesTr/", "labelsTr/", ""],
        ["nii", "nii.gz"],
        [volume, "no volume"],
    ),
    "dicom": (["", "images/", "ct/"], ["dcm", "ima"], [dicom, contours, "x"]),
}


# What is always there, since chance would hardly ever make a set of it.
SOUND: dict[str, dict[str, Callable[[Path], None]]] = {
    "volumes": {"imagesTr/z.nii": volume, "labelsTr/z.nii": volume},
    "dicom": {"z/1.dcm": dicom, "z/2.dcm": contours},
}


@st.composite
def folders(draw: st.DrawFn, layout: str) -> dict[str, bytes]:
    """The files of a folder that may or may not be of a layout."""
    places, suffixes, contents = TRUTHS[layout]
    files: dict[str, bytes] = {"readme.md": b"x"}
    for number in range(draw(st.integers(1, 6))):
        suffix = draw(IMAGES)
        kind = "png" if suffix == "gif" else suffix.lower()
        sound = draw(st.booleans()) or number % 3
        name = f"{draw(FOLDERS)}{draw(PARTS)}.{suffix}"
        files[name] = picture(kind, number) if sound else b"broken"
    for _ in range(draw(st.integers(1, 6))):
        name = f"{draw(st.sampled_from(places))}{draw(PARTS)}.{draw(st.sampled_from(suffixes))}"
        content = draw(st.sampled_from(contents))
        if callable(content):
            content = saved(
                content, f"x.{name.partition('.')[2] if layout == 'volumes' else 'png'}"
            )
        elif not isinstance(content, str):
            content = json.dumps(content)
        files[name] = content.encode() if isinstance(content, str) else content
    for name, write in SOUND.get(layout, {}).items():
        files[name] = saved(write, f"x{Path(name).suffix}")
    if layout == "yolo":
        files["data.yaml"] = YAML.encode()
    return files


def test_every_layout_is_tried():
    assert set(TRUTHS) == set(LAYOUTS)


@pytest.mark.parametrize("layout", sorted(TRUTHS))
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_report_accounts_for_every_file_on_disk(tmp_path_factory, layout, data):
    """Each file is once an image, an annotation, dropped or unused; images, boxes, rows balance."""
    root = tmp_path_factory.mktemp("tree")
    raw = root / "raw"
    for name, content in data.draw(folders(layout)).items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        report = convert(opened("spots", raw, layout=layout), root / "out", **OPTIONS)
    except DescryError as error:
        assert str(raw) in str(error) or "group" in str(error)
        return
    told = report["files"]
    parts = ("used as images", "used as annotations", "dropped")
    on_disk = sum(path.is_file() for path in raw.rglob("*"))
    assert told["found"] == on_disk == sum(told[p] for p in parts) + sum(told["unused"].values())
    images, boxes, rows = report["images"], report["boxes"], report["rows"]
    assert images["in"] == images["out"] + sum(images["dropped"].values())
    assert boxes["in"] == boxes["out"] + sum(boxes["dropped"].values())
    used = rows["used for boxes"] + rows["used without a box"]
    assert rows["read"] == sum(rows["dropped"].values()) + used
