"""The exports of annotation tools, each as a folder of built files, and the boxes in it."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_readers import BOX, OPTIONS, ROW, SIZE, boxes_of, coco_file, picture, reasons, xml
from toy_source import opened

from pipeline.convert import convert
from pipeline.convert.formats.box_tables import format_of
from pipeline.convert.records import Ledger

# On an image of SIZE (40 x 20) the box (16, 6, 8, 8); every export says it in its own way.
LEFT, TOP, RIGHT, BOTTOM = 16, 6, 24, 14
CORNERS = [[LEFT, TOP], [RIGHT, BOTTOM]]
OUTLINE = [[LEFT, 10], [20, TOP], [RIGHT, 10], [20, BOTTOM]]


def labelme(image: str, *shapes: dict[str, Any]) -> dict[str, Any]:
    plain = {"label": "cell", "points": CORNERS, "shape_type": "rectangle"}
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [plain | shape for shape in shapes or ({},)],
        "imagePath": image,
        "imageData": None,
        "imageHeight": SIZE[1],
        "imageWidth": SIZE[0],
    }


def bitmap() -> dict[str, Any]:
    """An object mask of 8 x 8 within 10 x 9, as a palette PNG whose value 0 is clear."""
    values = np.zeros((9, 10), np.uint8)
    values[1:9, 2:10] = 1
    image = Image.fromarray(values).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=0)
    data = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    return {"geometryType": "bitmap", "bitmap": {"data": data, "origin": [LEFT - 2, TOP - 1]}}


def supervisely(*objects: dict[str, Any]) -> dict[str, Any]:
    inside = {"exterior": [[LEFT, TOP], [RIGHT - 1, BOTTOM - 1]], "interior": []}
    plain = {"classTitle": "cell", "geometryType": "rectangle", "points": inside, "tags": []}
    size = {"height": SIZE[1], "width": SIZE[0]}
    return {"tags": [], "size": size, "objects": [plain | one for one in objects or ({},)]}


def qupath(kind: str, coordinates: list) -> dict[str, Any]:
    told = {"objectType": "annotation", "classification": {"name": "cell", "color": [1, 2, 3]}}
    geometry = {"type": kind, "coordinates": coordinates}
    feature = {"type": "Feature", "geometry": geometry, "properties": told}
    return {"type": "FeatureCollection", "features": [feature]}


def datumaro(**annotation: object) -> dict[str, Any]:
    names = [{"name": "wbc"}, {"name": "cell"}]
    plain = {"id": 0, "type": "bbox", "label_id": 1, "bbox": list(BOX), "attributes": {}}
    image = {"path": "a.png", "size": [SIZE[1], SIZE[0]]}
    item = {"id": "a", "annotations": [plain | annotation], "image": image}
    categories = {"label": {"labels": names, "label_groups": []}}
    return {"dm_format_version": "1.0", "infos": {}, "categories": categories, "items": [item]}


DARKNET = {
    "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
    "obj.names": "wbc\ncell\n",
    "train.txt": "data/obj_train_data/a.png\n",
    "obj_train_data/a.txt": ROW,
}
CLASSES = {"classes.txt": "wbc\ncell\n"}
NOTES = {"categories": [{"id": 0, "name": "wbc"}, {"id": 1, "name": "cell"}], "info": {"year": 1}}
TRAIN = "train"

EXPORTS: list[tuple[str, str, dict[str, object], str | None]] = [
    # (name, where the image lies, the other files, its split)
    ("coco-instances", "images/train/a.png", {"annotations/instances_train.json": "coco"}, TRAIN),
    ("coco-fiftyone", "data/a.png", {"labels.json": "coco"}, None),
    ("coco-beside", "train/a.png", {"train_annotations.json": "coco"}, TRAIN),
    ("coco-roboflow", "train/a.png", {"train/_annotations.coco.json": "coco"}, TRAIN),
    ("coco-label-studio", "x/images/a.png", {"x/result.json": "coco"}, None),
    ("coco-label-studio-raw", "raw/export/images/a.png", {"raw/export/result.json": "coco"}, None),
    ("voc", "JPEGImages/a.png", {"Annotations/a.xml": xml("a.png", label="cell")}, None),
    ("voc-roboflow", "train/a.png", {"train/a.xml": xml("a.png", label="cell")}, TRAIN),
    ("voc-labelimg", "a.png", {"a.xml": xml("a.png", label="cell")}, None),
    ("yolo-capitals", "Train/images/a.png", {"Train/labels/a.txt": ROW, **CLASSES}, TRAIN),
    ("yolo-cvat-1.1", "obj_train_data/a.png", DARKNET, TRAIN),
    (
        "yolo-datumaro-nested",
        "obj_train_data/s/a.png",
        {**DARKNET, "obj_train_data/a.txt": "", "obj_train_data/s/a.txt": ROW},
        TRAIN,
    ),
    (
        "yolo-label-studio",
        "images/a.png",
        {"labels/a.txt": ROW, "notes.json": NOTES, **CLASSES},
        None,
    ),
    ("yolo-label-studio-notes", "images/a.png", {"labels/a.txt": ROW, "notes.json": NOTES}, None),
    ("labelme", "a.png", {"a.json": labelme("a.png")}, None),
    ("labelme-apart", "images/a.png", {"labels/a.json": labelme("..\\images\\a.png")}, None),
    ("labelme-splits", "train/a.png", {"train/a.json": labelme("a.png")}, TRAIN),
    (
        "labelme-polygon",
        "a.png",
        {"a.json": labelme("a.png", {"shape_type": "polygon", "points": OUTLINE})},
        None,
    ),
    (
        "labelme-circle",
        "a.png",
        {"a.json": labelme("a.png", {"shape_type": "circle", "points": [[20, 10], [20, 14]]})},
        None,
    ),
    (
        "labelme-mask",
        "a.png",
        {"a.json": labelme("a.png", {"shape_type": "mask", "points": [[16, 6], [23, 13]]})},
        None,
    ),
    ("labelme-renamed", "a.png", {"a.json": labelme("/home/me/old.png")}, None),
    ("supervisely", "set/img/a.png", {"set/ann/a.png.json": supervisely()}, None),
    (
        "supervisely-bitmap",
        "train/img/a.png",
        {
            "train/ann/a.png.json": supervisely(bitmap()),
            "meta.json": {"classes": [{"title": "wbc"}, {"title": "cell"}], "tags": []},
        },
        TRAIN,
    ),
    ("qupath", "a.png", {"a.geojson": qupath("Polygon", [OUTLINE])}, None),
    ("qupath-multi", "a.png", {"a.png.geojson": qupath("MultiPolygon", [[OUTLINE]])}, None),
    ("datumaro", "images/train/a.png", {"annotations/train.json": datumaro()}, TRAIN),
    ("datumaro-default", "images/a.png", {"annotations/default.json": datumaro()}, None),
    (
        "datumaro-polygon",
        "images/a.png",
        {"annotations/x.json": datumaro(type="polygon", points=[p for c in OUTLINE for p in c])},
        None,
    ),
    (
        "datumaro-turned",
        "images/a.png",
        {"annotations/x.json": datumaro(attributes={"rotation": 90.0})},
        None,
    ),
    (
        "csv-tensorflow",
        "train/a.png",
        {
            "train/_annotations.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\n"
            "a.png,40,20,cell,16,6,24,14\n"
        },
        TRAIN,
    ),
    ("csv-retinanet", "images/a.png", {"annotations.csv": "images/a.png,16,6,24,14,cell\n"}, None),
    (
        "csv-automl",
        "images/a.png",
        {"all.csv": "TRAIN,gs://bucket/a.png,cell,0.4,0.3,,,0.6,0.7,,\n"},
        TRAIN,
    ),
    (
        "csv-kaggle-bbox",
        "train/a.png",
        {"train.csv": 'image_id,width,height,bbox,class\na,40,20,"[16.0, 6.0, 8.0, 8.0]",cell\n'},
        TRAIN,
    ),
    (
        "csv-open-images",
        "images/a.png",
        {"boxes.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax\na,cell,0.4,0.6,0.3,0.7\n"},
        None,
    ),
    (
        "csv-makesense",
        "images/a.png",
        {
            "labels.csv": "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,"
            "image_width,image_height\ncell,16,6,8,8,a.png,40,20\n"
        },
        None,
    ),
]


def folder(root: Path, image: str, files: dict[str, object]) -> Path:
    for name, content in ({image: picture("png", 1)} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "coco":
            content = coco_file([Path(image).name])
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
    return root


@pytest.mark.parametrize("name", ["spots", "ccellbio"])
@pytest.mark.parametrize(
    ("image", "files", "split"), [e[1:] for e in EXPORTS], ids=[e[0] for e in EXPORTS]
)
def test_exports_are_found_by_themselves_and_read_exactly(tmp_path, name, image, files, split):
    source, ledger = opened(name, folder(tmp_path / "set", image, files)), Ledger()
    (record,) = [r for r in source.scan(ledger) if r.boxes]
    (box,) = boxes_of(record)
    assert box[:4] == pytest.approx(BOX) and box[4] == "cell"
    assert (record.path, record.split) == (image, split)
    assert [drop for drop in ledger.drops if drop.reason != "annotation without image"] == []
    assert "cell" in [name for name, _ in source.categories()]


ODD = [
    # what is dropped of a folder beside the sound a.png: (files, reasons)
    (
        {
            "a.json": labelme("a.png", {}, {"shape_type": "point", "points": [[1, 1]]}),
            "a (1).json": labelme("a.png"),
        },
        {
            ("a.json:object 2", "shape without an area"),
            ("a (1).json", "annotation without image"),
            ("a (1).json:object 1", "annotation without image"),
        },
    ),
    (
        {"a.json": labelme("a.png", {}, {"points": [["x", 1]]}, {"label": ""}), "b.json": "{"},
        {
            ("a.json:object 2", "malformed row"),
            ("a.json:object 3", "object without a class"),
        },
    ),
    (
        {"a.json": labelme("a.png"), "c.png": picture("png", 3), "b.json": labelme("b.png")},
        {
            ("b.png", "image missing"),
            ("b.json:object 1", "image missing"),
            ("c.png", "image without annotation"),
        },
    ),
    (
        {
            "a.json": labelme("a.png"),
            "b.png": picture("png", 2),
            "b.json": labelme("b.png", {"points": None}),
        },
        {("b.json:object 1", "malformed row"), ("b.png", "annotation unusable")},
    ),
    (
        {
            "all.csv": "filename,class,xmin,ymin,xmax,ymax\na.png,cell,16,6,24,14\n"
            "a.png,cell,24,6,16,14\na.png,cell,nan,6,16,14\nb.png,cell,1,1,2,2\na.png\n"
        },
        {
            ("all.csv:3", "corners reversed"),
            ("all.csv:4", "malformed row"),
            ("b.png", "image missing"),
            ("all.csv:5", "image missing"),
            ("all.csv:6", "malformed row"),
        },
    ),
    (
        {"set.json": datumaro(label_id=None)},
        {("set.json:a.png object 1", "object without a class")},
    ),
    ({"a.geojson": qupath("Point", [1, 2])}, {("a.geojson:object 1", "shape without an area")}),
]


@pytest.mark.parametrize(("files", "expected"), ODD)
def test_what_an_export_holds_and_is_no_box_is_listed(tmp_path, files, expected):
    ledger = Ledger()
    records = list(opened("spots", folder(tmp_path / "set", "a.png", files)).scan(ledger))
    assert [record.path for record in records] == ["a.png"]
    assert reasons(ledger) == expected


def test_an_image_whose_row_has_no_box_is_a_negative(tmp_path):
    files = {"t.csv": "a.png,,,,,\nb.png,16,6,24,14,cell\n", "b.png": picture("png", 2)}
    source, ledger = opened("spots", folder(tmp_path / "set", "a.png", files)), Ledger()
    records = {record.path: boxes_of(record) for record in source.scan(ledger)}
    assert records == {"a.png": [], "b.png": [(16, 6, 8, 8, "cell")]} and ledger.drops == []
    assert ledger.rows_read == {"t.csv": 2} and ledger.rows_without_box == {"t.csv": 1}


@pytest.mark.parametrize(
    "fields",
    [
        ("patientId", "x", "y", "width", "height", "Target"),  # no image
        ("image", "class", "x", "y"),  # no box
        ("name", "id"),
        ("a", "b", "c", "d", "e", "f"),
    ],
)
def test_other_tables_are_none_of_boxes(fields):
    assert format_of(fields) is None


def png(values: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8) * 255).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


DIAMOND = np.array([[min(r, 7 - r) + min(c, 7 - c) >= 3 for c in range(8)] for r in range(8)])
MASKS = [
    ({"a.json": labelme("a.png", {"shape_type": "polygon", "points": OUTLINE})}, 32),
    (
        {
            "a.json": labelme(
                "a.png",
                {"shape_type": "mask", "points": [[16, 6], [23, 13]], "mask": png(DIAMOND)},
            )
        },
        int(DIAMOND.sum()),
    ),
    ({"a.json": labelme("a.png")}, 64),  # a rectangle is its box
    ({"a.geojson": qupath("Polygon", [OUTLINE])}, 32),
    ({"x.json": datumaro(type="polygon", points=[p for c in OUTLINE for p in c])}, 32),
]


@pytest.mark.parametrize(("files", "area"), MASKS)
def test_outlines_and_masks_of_exports_are_kept(tmp_path, files, area):
    coco_tools = pytest.importorskip("pycocotools.coco")
    raw = folder(tmp_path / "set", "a.png", files)
    convert(opened("spots", raw), tmp_path / "out", **OPTIONS)
    found = [coco_tools.COCO(str(file)) for file in (tmp_path / "out/annotations").iterdir()]
    (mask,) = [coco.annToMask(entry) for coco in found for entry in coco.anns.values()]
    assert mask.shape == (20, 40) and mask[9:11, 19:21].all() and abs(int(mask.sum()) - area) <= 8
    assert mask[:6].sum() == mask[14:].sum() == 0
