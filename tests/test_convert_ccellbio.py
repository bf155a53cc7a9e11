"""CCellBio's adapter: the BCCD stand-in, VOC, COCO and YOLO folders, and tiles of slides."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_factory import OPTIONS, drops, picture, scan
from PIL import Image, ImageOps
from toy_source import opened

from pipeline.convert import convert, open_source
from pipeline.convert.formats import slides as slides_module
from pipeline.convert.formats.coco import split_of
from pipeline.convert.formats.pictures import AMBIGUOUS, TURNED, turn
from pipeline.convert.formats.slides import read_stored, read_tile
from pipeline.convert.formats.tiles import Tiling, clip
from pipeline.convert.records import Box, Record, Unreadable
from pipeline.data.images import read_image
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError

SAMPLE = Path(__file__).parent.parent / "datasets" / "ccellbio" / "sample"


def xywh(box: Box) -> tuple[float, float, float, float]:
    return (box.x, box.y, box.width, box.height)


def xml(*objects: str, size: tuple[int, int] | None = (20, 10), filename: str = "") -> str:
    declared = "" if size is None else "<size><width>{}</width><height>{}</height></size>"
    declared = declared.format(*(size or ()))
    named = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{named}{declared}{''.join(objects)}</annotation>"


def item(name: str, *corners: object, more: str = "") -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"<{t}>{c}</{t}>" for t, c in zip(tags, corners, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{inner}</bndbox></object>"


def voc(raw: Path, annotations: dict[str, str], lists: dict[str, list[str]] | None = None) -> Path:
    """Write a VOC folder: an image of 20 x 10 pixels for every annotation."""
    (raw / "Annotations").mkdir(parents=True, exist_ok=True)
    (raw / "JPEGImages").mkdir(exist_ok=True)
    for name, text in annotations.items():
        (raw / "Annotations" / f"{name}.xml").write_text(text)
        picture(raw / "JPEGImages" / f"{name}.png")
    for name, entries in (lists or {}).items():
        path = raw / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(entries))
    return raw


def coco(path: Path, names: list[str], boxes: list[tuple], **changes: Any) -> dict[str, Any]:
    """Write a COCO file: `boxes` are (image number, category id, bbox); images are 20 x 10."""
    content = {
        "images": [
            {"id": 10 + i, "file_name": n, "width": 20, "height": 10} for i, n in enumerate(names)
        ],
        "annotations": [
            {"id": i, "image_id": 10 + image, "category_id": category, "bbox": box}
            for i, (image, category, box) in enumerate(boxes)
        ],
        "categories": [
            {"id": 0, "name": "cells"},
            {"id": 7, "name": "wbc"},
            {"id": 3, "name": "rbc"},
        ],
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return content


# The committed sample: BCCD


def test_sample_is_bccd_with_its_own_splits() -> None:
    source = opened("ccellbio", SAMPLE)
    records, ledger = scan(source)
    assert len(records) == 364
    assert [sum(r.split == s for r in records) for s in ("train", "val", "test")] == [205, 87, 72]
    boxes = [box for record in records for box in record.boxes]
    assert len(boxes) == 4888
    labels = [box.label for box in boxes]
    assert [labels.count(n) for n in ("Platelets", "RBC", "WBC")] == [361, 4155, 372]
    assert source.categories() == [("Platelets", "cell"), ("RBC", "cell"), ("WBC", "cell")]
    empty = [box.where for box in boxes if box.width * box.height == 0]
    assert [where.split("/")[-1].split(".")[0] for where in empty] == [
        "BloodImage_00338",
        "BloodImage_00343",
    ]
    assert ledger.drops == []


@pytest.mark.parametrize("raw", [SAMPLE, SAMPLE / "BCCD"])
def test_sample_says_that_it_is_a_stand_in(raw: Path) -> None:
    _, ledger = scan(opened("ccellbio", raw))
    assert ledger.notes[0].startswith("Stand-in: these are the blood cell images of BCCD")
    assert "not CCellBio" in ledger.notes[0]


def test_sample_corners_become_pixels_from_zero() -> None:
    records, _ = scan(opened("ccellbio", SAMPLE))
    # BloodImage_00000: WBC 260 177 491 376; the sixth object ends at 640 of 640.
    assert xywh(records[0].boxes[0]) == (259, 176, 232, 200)
    edge = records[0].boxes[5]
    assert (edge.x + edge.width, records[0].size) == (640, (640, 480))


def test_sample_converts_with_two_boxes_dropped(tmp_path: Path) -> None:
    report = convert(open_source("ccellbio", SAMPLE), tmp_path / "out", **OPTIONS)
    assert report["images"] == {"in": 364, "out": 364, "dropped": {}}
    assert report["boxes"]["in"] == 4888
    assert report["boxes"]["out"] == 4886
    assert report["boxes"]["clipped"] == 0
    assert report["boxes"]["dropped"] == {"zero or negative size": 2}
    assert report["notes of the converter"][0].startswith("Stand-in")


# VOC


def test_voc_corners_are_1_based_and_inclusive(tmp_path: Path) -> None:
    objects = item("c", 1, 1, 20, 10), item("c", 3, 4, 3, 4), item("c", 5, 2, 6, 2)
    raw = voc(tmp_path, {"a": xml(*objects)})
    (record,), _ = scan(opened("ccellbio", raw))
    whole, click, line = map(xywh, record.boxes)
    assert whole == (0, 0, 20, 10)
    assert click == (2, 3, 0, 0)  # no extent: the writer drops it
    assert line == (4, 1, 2, 0)


def test_voc_malformed_objects_are_dropped_one_by_one(tmp_path: Path) -> None:
    objects = (
        item("c", 1, 1, 5, 5),
        item("", 1, 1, 5, 5),
        item("c", 1, 1, 5),
        item("c", 1, "x", 5, 5),
        item("c", 1, "nan", 5, 5),
        item("c", 5, 1, 1, 5),
        "<object><name>c</name></object>",
    )
    (record,), ledger = scan(opened("ccellbio", voc(tmp_path, {"a": xml(*objects)})))
    assert len(record.boxes) == 1
    assert ledger.rows_read == {"Annotations/a.xml": 7}
    where = "Annotations/a.xml:object"
    assert drops(ledger) == [
        ("row", f"{where} 2", "malformed row"),
        ("row", f"{where} 3", "malformed row"),
        ("row", f"{where} 4", "malformed row"),
        ("row", f"{where} 5", "malformed row"),
        ("row", f"{where} 6", "corners reversed"),
        ("row", f"{where} 7", "malformed row"),
    ]


def test_voc_images_and_annotations_that_lack_each_other(tmp_path: Path) -> None:
    good = xml(item("c", 1, 1, 5, 5))
    names = ("a", "broken", "foreign", "hopeless", "lonely")
    raw = voc(tmp_path, dict.fromkeys(names, good))
    (raw / "Annotations/broken.xml").write_text("<annotation><object>")
    (raw / "Annotations/foreign.xml").write_text("<svg/>")
    (raw / "Annotations/hopeless.xml").write_text(xml(item("c", 9, 9, 5, 5)))
    (raw / "JPEGImages/lonely.png").unlink()
    picture(raw / "JPEGImages/unlabelled.png")
    records, ledger = scan(opened("ccellbio", raw))
    assert [r.key for r in records] == ["a"]
    assert drops(ledger) == [
        ("file", "Annotations/broken.xml", "malformed xml"),
        ("image", "JPEGImages/broken.png", "annotation unusable"),
        ("file", "Annotations/foreign.xml", "malformed xml"),
        ("image", "JPEGImages/foreign.png", "annotation unusable"),
        ("row", "Annotations/hopeless.xml:object 1", "corners reversed"),
        ("image", "JPEGImages/hopeless.png", "annotation unusable"),
        ("row", "Annotations/lonely.xml:object 1", "annotation without image"),
        ("file", "Annotations/lonely.xml", "annotation without image"),
        ("image", "JPEGImages/unlabelled.png", "image without annotation"),
    ]


def test_voc_image_named_only_inside_the_xml(tmp_path: Path) -> None:
    raw = voc(tmp_path, {"a": xml(filename="IMG 7.jpg")})
    (raw / "JPEGImages/a.png").rename(raw / "JPEGImages/IMG 7.png")
    (record,), _ = scan(opened("ccellbio", raw))
    assert (record.key, record.path, record.boxes) == ("a", "JPEGImages/IMG 7.png", ())


def test_voc_lists_are_the_official_splits(tmp_path: Path) -> None:
    lists = {
        "train": ["a", "b 1", "c"],
        "val": ["c"],
        "test": ["d", "gone"],
        "trainval": ["a", "b 1", "c"],
    }
    raw = voc(tmp_path, dict.fromkeys(("a", "b 1", "c", "d", "e"), xml()), lists)
    records, ledger = scan(opened("ccellbio", raw))
    assert [r.split for r in records] == ["train", "train", "val", "test", None]
    assert drops(ledger) == [
        ("row", "ImageSets/Main/train.txt:name 3", "listed twice"),
        ("row", "ImageSets/Main/test.txt:name 2", "listed but not annotated"),
    ]
    used = {"ImageSets/Main/train.txt": 2, "ImageSets/Main/val.txt": 1}
    assert ledger.rows_without_box == used | {"ImageSets/Main/test.txt": 1}


def test_voc_trainval_stands_in_for_train(tmp_path: Path) -> None:
    lists = {"trainval": ["a", "b"], "val": ["b"]}
    records, ledger = scan(opened("ccellbio", voc(tmp_path, {"a": xml(), "b": xml()}, lists)))
    assert [r.split for r in records] == ["train", "val"]
    assert ledger.drops == []


def test_voc_declared_size_of_zero_is_no_size(tmp_path: Path) -> None:
    raw = voc(tmp_path, {"a": xml(size=(0, 0)), "b": xml(size=None)})
    assert [r.size for r in scan(opened("ccellbio", raw))[0]] == [None, None]


def test_voc_image_of_another_size_is_refused(tmp_path: Path) -> None:
    source = opened("ccellbio", voc(tmp_path, {"a": xml(item("c", 1, 1, 5, 5), size=(40, 20))}))
    (record,), _ = scan(source)
    with pytest.raises(Unreadable, match="image size differs from the annotation"):
        source.read(record)


def test_voc_difficult_objects_are_kept_and_counted(tmp_path: Path) -> None:
    hard = item("c", 1, 1, 5, 5, more="<difficult>1</difficult>")
    (record,), ledger = scan(opened("ccellbio", voc(tmp_path, {"a": xml(hard)})))
    assert len(record.boxes) == 1
    assert any(note.startswith("1 object(s) are marked difficult") for note in ledger.notes)


def test_classes_select_order_and_drop(tmp_path: Path) -> None:
    objects = item("a", 1, 1, 5, 5), item("b", 1, 1, 5, 5), item("c", 1, 1, 5, 5)
    source = opened("ccellbio", voc(tmp_path, {"x": xml(*objects)}), classes=("c", "a", "absent"))
    (record,), ledger = scan(source)
    assert [box.label for box in record.boxes] == ["a", "c"]
    assert [name for name, _ in source.categories()] == ["c", "a", "absent"]
    assert drops(ledger) == [("row", "Annotations/x.xml:object 2", "class not selected")]
    assert "classes: no object of class 'absent' was found." in ledger.notes


def test_voc_annotations_without_image_folder(tmp_path: Path) -> None:
    raw = voc(tmp_path, {"a": xml()})
    (raw / "JPEGImages").rename(raw / "pictures")
    with pytest.raises(DescryError, match="JPEGImages: the image folder of the VOC layout"):
        scan(opened("ccellbio", raw))


def test_voc_books_balance(tmp_path: Path) -> None:
    good = item("c", 1, 1, 5, 5)
    names = [f"i{n}" for n in range(6)]
    lists = {"train": names[:4], "test": [*names[4:], "gone"]}
    raw = voc(tmp_path / "raw", {n: xml(good, item("c", 9, 9, 2, 2)) for n in names}, lists)
    (raw / "JPEGImages/i0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = convert(open_source("ccellbio", raw), tmp_path / "out", **OPTIONS)
    assert report["images"] == {"in": 6, "out": 5, "dropped": {"corrupt image": 1}}
    rows = report["rows"]
    assert rows["dropped"] == {"corners reversed": 6, "listed but not annotated": 1}
    assert rows["read"] == 12 + 7 == rows["used for boxes"] + rows["used without a box"] + 7


# Turned images


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_the_pixels_do(orientation: int) -> None:
    pixels = np.zeros((10, 20), np.uint8)
    pixels[1:4, 5:12] = 255  # x 5, y 1, width 7, height 3 of 20 x 10
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    shown = np.asarray(ImageOps.exif_transpose(image))
    rows, columns = np.nonzero(shown)
    seen = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert xywh(turn(Box(5, 1, 7, 3, "c"), orientation, (20, 10))) == seen


@pytest.mark.parametrize(
    ("declared", "box", "note"),
    [
        ((20, 10), (6, 2, 4, 5), TURNED),  # the stored frame: turned by 90 degrees
        ((10, 20), (2, 0, 5, 4), None),  # the displayed frame
        (None, (2, 0, 5, 4), AMBIGUOUS),
    ],
)
def test_declared_size_tells_the_frame_of_the_boxes(
    tmp_path: Path, declared: tuple[int, int] | None, box: tuple, note: str | None
) -> None:
    raw = voc(tmp_path, {"a": xml(item("c", 3, 1, 7, 4), size=declared)})  # x 2, y 0, 5 x 4
    (raw / "JPEGImages/a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(raw / "JPEGImages/a.jpg", exif=exif)
    source = opened("ccellbio", raw)
    (record,), _ = scan(source)
    shown = source.read(record)
    assert shown.pixels.shape == (20, 10)
    assert xywh(shown.boxes[0]) == box
    assert [n for n in shown.notes if n in (TURNED, AMBIGUOUS)] == [note] * (note is not None)


# COCO


def test_coco_ids_with_gaps_and_an_unused_category(tmp_path: Path) -> None:
    coco(tmp_path / "cells.json", ["b.png", "a.png"], [(0, 7, [1, 2, 3, 4]), (1, 3, [0, 0, 5, 5])])
    picture(tmp_path / "a.png")
    picture(tmp_path / "images" / "b.png")
    source = opened("ccellbio", tmp_path)
    records, ledger = scan(source)
    assert [(r.key, r.path, r.split) for r in records] == [
        ("a", "a.png", None),
        ("b", "images/b.png", None),
    ]
    assert [r.boxes[0].label for r in records] == ["rbc", "wbc"]
    assert xywh(records[1].boxes[0]) == (1, 2, 3, 4)
    assert source.categories() == [("rbc", "cell"), ("wbc", "cell")]  # by category id
    assert any("no annotation uses are left out: cells" in note for note in ledger.notes)
    assert ledger.rows_read == {"cells.json": 2}


def test_coco_shapes_and_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        coco(
            tmp_path / f"zip/annotations/instances_{split}2017.json",
            [f"{split}.png"],
            [(0, 7, [1, 2, 3, 4])],
        )
        picture(tmp_path / f"zip/{split}2017/{split}.png")
    (tmp_path / "zip/annotations/captions_train2017.json").write_text("{}")
    for split in ("train", "valid", "test"):
        name = f"y1_jpg.rf.{split}0.png"
        coco(tmp_path / f"flow/{split}/_annotations.coco.json", [name], [(0, 7, [1, 2, 3, 4])])
        picture(tmp_path / "flow" / split / name)
    found = [(r.key, r.split, r.group) for r in scan(opened("ccellbio", tmp_path / "zip"))[0]]
    assert found == [("train/train", "train", ""), ("val/val", "val", "")]
    found = [(r.key, r.split, r.group) for r in scan(opened("ccellbio", tmp_path / "flow"))[0]]
    assert found == [
        ("test/y1_jpg.rf.test0", "test", "y1"),
        ("train/y1_jpg.rf.train0", "train", "y1"),
        ("val/y1_jpg.rf.valid0", "val", "y1"),
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017.json", "train"),
        ("cells_Test.json", "test"),
        ("validation.json", "val"),
        ("trainval.json", None),
        ("contest.json", None),
        ("valid/_annotations.coco.json", "val"),
    ],
)
def test_coco_split_names(name: str, split: str | None) -> None:
    assert split_of(Path("somewhere") / name) == split


def test_coco_missing_repeated_and_unlisted_images(tmp_path: Path) -> None:
    names = ["images\\a.png", "images/a.png", "gone.png", "../outside.png"]
    coco(tmp_path / "raw/cells.json", names, [(i, 7, [1, 2, 3, 4]) for i in range(4)])
    picture(tmp_path / "raw/images/a.png")
    picture(tmp_path / "raw/images/extra.png")
    picture(tmp_path / "outside.png")
    records, ledger = scan(opened("ccellbio", tmp_path / "raw"))
    assert [(r.key, r.path) for r in records] == [("images/a", "images/a.png")]
    assert drops(ledger) == [
        ("image", "../outside.png", "image missing"),
        ("row", "cells.json:annotation 3", "image missing"),
        ("image", "gone.png", "image missing"),
        ("row", "cells.json:annotation 2", "image missing"),
        ("row", "cells.json:annotation 0", "repeated row"),  # of images\\a.png, the same again
        ("image", "images/extra.png", "image without annotation"),
    ]


def test_coco_negatives_and_crowds_are_kept(tmp_path: Path) -> None:
    content = coco(tmp_path / "cells.json", ["a.png", "b.png"], [(0, 7, [1, 2, 3, 4])])
    content["annotations"][0]["iscrowd"] = 1
    (tmp_path / "cells.json").write_text(json.dumps(content))
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    records, _ = scan(opened("ccellbio", tmp_path))
    assert [len(r.boxes) for r in records] == [1, 0]
    assert records[0].boxes[0].iscrowd


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"categories": []}, "category_id"),
        ({"images": None}, "'images' is missing"),
        ({"annotations": [{"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 2]}]}, "bbox"),
        ({"annotations": [{"id": 1, "image_id": 9, "category_id": 7, "bbox": [1] * 4}]}, "is 9"),
        (
            {
                "categories": [{"id": i, "name": "x"} for i in (3, 7)],
                "annotations": [
                    {"id": i, "image_id": 10, "category_id": i, "bbox": [1, 2, 3, 4]}
                    for i in (3, 7)
                ],
            },
            "stands there twice",
        ),
    ],
)
def test_coco_malformed_files_are_named(tmp_path: Path, changes: dict, told: str) -> None:
    coco(tmp_path / "cells.json", ["a.png"], [(0, 7, [1, 2, 3, 4])], **changes)
    picture(tmp_path / "a.png")
    with pytest.raises(DescryError, match=told) as caught:
        scan(opened("ccellbio", tmp_path))
    assert "cells.json" in str(caught.value)


def test_coco_unknown_class_by_parameter(tmp_path: Path) -> None:
    coco(tmp_path / "cells.json", ["a.png"], [(0, 7, [1, 2, 3, 4])])
    picture(tmp_path / "a.png")
    with pytest.raises(DescryError, match=r"'WBC' is not a class of .*Allowed: cells, rbc, wbc"):
        scan(opened("ccellbio", tmp_path, classes=("WBC",)))


# YOLO (its rows and quirks are tested with the brain tumour folders)


def test_yolo_without_splits(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("1 0.5 0.5 0.5 1.0\n")
    (tmp_path / "labels/classes.txt").write_text("rbc\nwbc\n")
    source = opened("ccellbio", tmp_path)
    (record,), ledger = scan(source)
    assert (record.key, record.split, record.boxes[0].label) == ("a", None, "wbc")
    assert xywh(record.boxes[0]) == (5.0, 0.0, 10.0, 10.0)
    assert source.categories() == [("rbc", "cell"), ("wbc", "cell")]
    assert ledger.notes[0].startswith("CCellBio has no public release")


# Tiles


def test_grid_covers_and_last_tiles_are_shifted_back() -> None:
    tiling = Tiling(4, 1)
    assert tiling.grid(9, 4) == [(0, 0, 4, 4), (3, 0, 4, 4), (5, 0, 4, 4)]
    assert tiling.grid(4, 4) == [(0, 0, 4, 4)]
    assert tiling.grid(3, 5) == [(0, 0, 3, 4), (0, 1, 3, 4)]


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (8, 15), (23, 9), (64, 33)])
@pytest.mark.parametrize("overlap", [0, 1, 6])
def test_grid_covers_every_pixel(size: tuple[int, int], overlap: int) -> None:
    covered = np.zeros(size[::-1], bool)
    for x, y, w, h in Tiling(7, overlap).grid(*size):
        assert (w, h) == (min(7, size[0]), min(7, size[1]))
        assert x + w <= size[0]
        assert y + h <= size[1]
        covered[y : y + h, x : x + w] = True
    assert covered.all()


@pytest.mark.parametrize("overlap", [0, 2])
def test_touched_tiles_are_those_that_share_area(overlap: int) -> None:
    tiling, rng = Tiling(7, overlap), np.random.default_rng(0)
    for x, y, w, h in rng.uniform([0, 0, 0.1, 0.1], [30, 20, 9, 9], (50, 4)):
        box = Box(x, y, w, h, "c")
        expected = [t for t in tiling.grid(40, 30) if clip(box, t) is not None]
        assert tiling.touched(box, 40, 30) == expected


def slides(raw: Path, *objects: str) -> Path:
    return voc(raw, {"s": xml(*objects)}, {"train": ["s"]})


def test_box_at_a_tile_edge_is_kept_with_half_of_its_area(tmp_path: Path) -> None:
    # 20 x 10 pixels, tiles of 10: the border is at x = 10.
    half = item("c", 9, 1, 12, 2)  # x 8..12: half on each side
    most = item("c", 4, 5, 11, 8)  # x 3..11: 7/8 left, 1/8 right
    source = opened("ccellbio", slides(tmp_path, half, most), tile=10)
    (left, right), ledger = scan(source)
    assert [xywh(b) for b in left.boxes] == [(8, 0, 2, 2), (3, 4, 7, 4)]
    assert [xywh(b) for b in right.boxes] == [(0, 0, 2, 2)]
    (drop,) = ledger.drops
    assert (drop.kind, drop.reason, drop.detail) == (
        "box",
        "piece cut off by a tile edge",
        "0.125 of its area",
    )
    assert drop.where == "Annotations/s.xml:object 2 in s_x000010_y000000"
    assert any("3 boxes in tiles, 3 of them cut, 1 pieces dropped" in n for n in ledger.notes)


def test_box_that_no_tile_keeps_is_a_dropped_row(tmp_path: Path) -> None:
    split_in_two = item("c", 6, 1, 15, 2)
    outside = item("c", 31, 1, 35, 5)
    point = item("c", 3, 3, 3, 3)
    source = opened(
        "ccellbio", slides(tmp_path, split_in_two, outside, point), tile=10, tile_keep=0.6
    )
    records, ledger = scan(source)
    assert [r.boxes for r in records] == [(), ()]
    rows = [d for d in drops(ledger) if d[0] == "row"]
    assert rows == [
        ("row", "Annotations/s.xml:object 1", "too little of it inside any tile"),
        ("row", "Annotations/s.xml:object 2", "no area on the slide"),
        ("row", "Annotations/s.xml:object 3", "no area on the slide"),
    ]


def test_share_is_of_the_part_on_the_slide(tmp_path: Path) -> None:
    source = opened("ccellbio", slides(tmp_path, item("c", 17, 1, 40, 4)), tile=10, tile_keep=1.0)
    (_, right), _ = scan(source)
    assert [xywh(b) for b in right.boxes] == [(6, 0, 4, 4)]


def test_tiles_are_parts_of_the_slide_and_stay_in_its_split(tmp_path: Path) -> None:
    raw = slides(tmp_path, item("c", 2, 2, 5, 5))
    whole = read_image(raw / "JPEGImages/s.png").pixels
    source = opened("ccellbio", raw, tile=8, tile_overlap=2)
    records, _ = scan(source)
    assert [r.crop for r in records] == [(x, y, 8, 8) for y in (0, 2) for x in (0, 6, 12)]
    assert {(r.group, r.split) for r in records} == {("s", "train")}
    assert records[1].key == "s_x000006_y000000"
    for record in records:
        x, y, w, h = record.crop or (0, 0, 0, 0)
        shown = source.read(record)
        assert np.array_equal(shown.pixels, whole[y : y + h, x : x + w])
        assert not shown.verbatim


def test_a_slide_is_decoded_once_per_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened("ccellbio", slides(tmp_path), tile=5)
    records, _ = scan(source)
    decoded = []
    ordinary = slides_module.read_picture

    def counting(raw: Path, record: Record, intensity: Intensity) -> Any:
        decoded.append(record.path)
        return ordinary(raw, record, intensity)

    monkeypatch.setattr(slides_module, "read_picture", counting)
    slides_module._last_slide.cache_clear()
    assert [source.read(r).pixels.shape for r in records] == [(5, 5)] * 8
    assert decoded == ["JPEGImages/s.png"]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiff_tiles(tmp_path: Path, compression: str, kind: type) -> None:
    pixels = np.random.default_rng(0).integers(0, 60_000, (90, 70)).astype(kind)
    Image.fromarray(pixels).save(
        tmp_path / "s.tif", compression=compression, tiffinfo={278: 16}
    )  # 278: rows per strip
    tile = read_tile(tmp_path, Record("s", "s.tif", crop=(13, 40, 20, 30)), Intensity())
    assert tile.pixels.dtype == kind
    assert np.array_equal(tile.pixels, pixels[40:70, 13:33])


def write_tiff(path: Path, pixels: np.ndarray, across: int, down: int) -> None:
    """Write an uncompressed TIFF in tiles (`across` x `down`), or in strips (`across` 0)."""
    height, width = pixels.shape[:2]
    w = across or width
    body, offsets = bytearray(b"II*\0\0\0\0\0"), []
    for y in range(0, height, down):
        for x in range(0, width, w):
            part = pixels[y : y + down, x : x + w]
            if across:  # tiles are stored whole
                pad = [(0, down - part.shape[0]), (0, w - part.shape[1]), (0, 0)]
                part = np.pad(part, pad[: part.ndim])
            offsets.append(len(body))
            body += part.tobytes()
    size = [down * w * pixels[0, 0].nbytes] * len(offsets)
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    place, lengths = (324, 325) if across else (273, 279)
    tags = {
        256: [width],
        257: [height],
        258: [8 * pixels.itemsize] * samples,
        259: [1],
        262: [2 if samples == 3 else 1],
        277: [samples],
        place: offsets,
        lengths: size,
    } | ({322: [across], 323: [down]} if across else {278: [down]})
    entries = bytearray()
    for tag, values in sorted(tags.items()):
        raw = struct.pack(f"<{len(values)}I", *values)
        if len(raw) > 4:
            raw, at = struct.pack("<I", len(body)), raw
            body += at
        entries += struct.pack("<HHI", tag, 4, len(values)) + raw
    body[4:8] = struct.pack("<I", len(body))
    body += struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(body)


@pytest.mark.parametrize(
    ("shape", "kind"), [((96, 70), np.uint8), ((96, 70), np.uint16), ((96, 70, 3), np.uint8)]
)
@pytest.mark.parametrize(("across", "down"), [(0, 16), (0, 50), (32, 16)])
def test_uncompressed_tiff_in_parts(
    tmp_path: Path, shape: tuple[int, ...], kind: type, across: int, down: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 60_000, shape).astype(kind)
    write_tiff(tmp_path / "s.tif", pixels, across, down)
    assert np.array_equal(read_image(tmp_path / "s.tif").pixels, pixels)
    for x, y, w, h in [(0, 0, 70, 96), (13, 40, 20, 30), (60, 90, 10, 6), (31, 15, 2, 2)]:
        part = read_stored(tmp_path / "s.tif", (x, y, w, h))
        assert part is not None
        assert part.dtype == kind
        assert np.array_equal(part, pixels[y : y + h, x : x + w])


def test_uncompressed_tiff_reads_only_the_strips_it_needs(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 70), dtype=np.uint8)
    write_tiff(tmp_path / "s.tif", pixels, 0, 16)
    content = bytearray((tmp_path / "s.tif").read_bytes())
    content[8 : 8 + 32 * 70] = bytes(32 * 70)  # the strips of rows 0..31 hold nothing
    (tmp_path / "s.tif").write_bytes(content)
    tile = read_tile(tmp_path, Record("s", "s.tif", crop=(13, 33, 20, 30)), Intensity())
    assert np.array_equal(tile.pixels, pixels[33:63, 13:33])


def test_what_is_not_an_uncompressed_tiff_is_left_to_the_full_reader(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "s.png")
    Image.fromarray(pixels).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    write_tiff(tmp_path / "short.tif", pixels, 0, 4)
    content = (tmp_path / "short.tif").read_bytes()
    (tmp_path / "short.tif").write_bytes(content.replace(struct.pack("<I", 8), b"\0\0\1\0"))
    (tmp_path / "text.tif").write_text("no image")
    for name in ("s.png", "lzw.tif", "short.tif", "text.tif"):
        assert read_stored(tmp_path / name, (0, 0, 5, 5)) is None
    write_tiff(tmp_path / "s.tif", pixels, 0, 4)
    assert read_stored(tmp_path / "s.tif", (18, 8, 5, 5)) is None  # reaches outside


def test_corrupt_missing_and_turned_slides(tmp_path: Path) -> None:
    raw = voc(
        tmp_path, dict.fromkeys(("bad", "cut", "other", "turned"), xml(item("c", 1, 1, 5, 5)))
    )
    (raw / "JPEGImages/bad.png").write_bytes(b"no image")
    whole = (raw / "JPEGImages/cut.png").read_bytes()
    (raw / "JPEGImages/cut.png").write_bytes(whole[:60])
    picture(raw / "JPEGImages/other.png", 40, 40)
    (raw / "JPEGImages/turned.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(raw / "JPEGImages/turned.jpg", exif=exif)
    source = opened("ccellbio", raw, tile=20)
    records, ledger = scan(source)
    assert [r.path for r in records] == ["JPEGImages/bad.png", "JPEGImages/cut.png"]
    for record in records:
        with pytest.raises(Unreadable, match="corrupt image"):
            source.read(record)
    assert drops(ledger) == [
        ("image", "JPEGImages/other.png", "image size differs from the annotation"),
        ("row", "Annotations/other.xml:object 1", "its slide is not used"),
        ("image", "JPEGImages/turned.jpg", "slide with an EXIF orientation, cannot be tiled"),
        ("row", "Annotations/turned.xml:object 1", "its slide is not used"),
    ]


def test_tiled_conversion_balances_and_never_divides_a_slide(tmp_path: Path) -> None:
    names = [f"s{n}" for n in range(8)]
    raw = voc(tmp_path / "raw", {n: xml(item("c", 8, 1, 12, 9)) for n in names})
    source = opened("ccellbio", raw, tile=10, tile_overlap=2, tile_keep=0.4)
    report = convert(source, tmp_path / "out", **OPTIONS)
    assert report["images"]["out"] == 8 * 3  # tiles begin at x 0, 8 and 10
    assert report["rows"]["read"] == report["rows"]["used for boxes"] == 8
    assert report["leakage"] == {"groups in more than one split": 0}
    slides_of = [
        {i["group"] for i in json.loads(path.read_text())["images"]}
        for path in sorted((tmp_path / "out" / "annotations").glob("*.json"))
    ]
    assert sum(map(len, slides_of)) == len(set().union(*slides_of)) == 8


# Wrong folders and parameters


def test_missing_empty_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(DescryError, match="no public release"):
        open_source("ccellbio", tmp_path / "none")
    with pytest.raises(DescryError, match="is empty"):
        open_source("ccellbio", tmp_path)
    with pytest.raises(DescryError, match="Known are COCO"):
        scan(opened("ccellbio", tmp_path))
    (tmp_path / "BBox_List_2017.csv").write_text("Image Index,Finding Label\n")
    with pytest.raises(DescryError, match="looks like nih"):
        open_source("ccellbio", tmp_path)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("")
    with pytest.raises(DescryError, match="not a folder"):
        scan(opened("ccellbio", tmp_path / "raw"))


def test_two_datasets_need_a_choice(tmp_path: Path) -> None:
    raw = voc(tmp_path, {"a": xml(item("c", 1, 1, 5, 5))})
    coco(raw / "cells.json", ["JPEGImages/a.png"], [(0, 7, [1, 2, 3, 4])])
    with pytest.raises(DescryError, match="more than one dataset"):
        scan(opened("ccellbio", raw))
    assert scan(opened("ccellbio", raw, layout="voc"))[0][0].boxes[0].label == "c"
    assert scan(opened("ccellbio", raw, layout="coco"))[0][0].boxes[0].label == "wbc"
    with pytest.raises(DescryError, match="layout=yolo"):
        scan(opened("ccellbio", raw, layout="yolo"))


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"tile": 8, "tile_overlap": 8}, "tile_overlap: 8 is not allowed"),
        ({"classes": ("a", "a")}, "'a' stands there twice"),
    ],
)
def test_wrong_parameters(tmp_path: Path, parameters: dict, told: str) -> None:
    with pytest.raises(DescryError, match=told):
        opened("ccellbio", tmp_path, **parameters)
