import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.coco import load_coco, write_coco
from pipeline.data.coco_table import load_table
from pipeline.errors import DescryError

GOOD = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 9, "file_name": "b.png", "width": 20, "height": 10},
    ],
    "annotations": [
        {"id": 3, "image_id": 9, "category_id": 5, "bbox": [1, 2, 3.5, 4]},
        {"id": 8, "image_id": 7, "category_id": 2, "bbox": [0, 0, 2, 2], "iscrowd": 1, "area": 3},
    ],
    "categories": [{"id": 2, "name": "cell"}, {"id": 5, "name": "nucleus"}],
}


def _load(tmp_path, content):
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    return load_coco(path)


def test_foreign_file_keeps_its_ids_and_gets_area_and_iscrowd(tmp_path):
    coco = _load(tmp_path, GOOD)
    assert [category["id"] for category in coco["categories"]] == [2, 5]
    assert [image["id"] for image in coco["images"]] == [7, 9]
    assert coco["annotations"][0]["area"] == 14.0  # 3.5 x 4
    assert coco["annotations"][0]["iscrowd"] == 0
    assert coco["annotations"][1]["area"] == 3
    assert coco["annotations"][1]["iscrowd"] == 1


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images",), "x", "'images' is 'x'"),
        (("annotations",), None, "'annotations' is missing"),
        (("categories",), {}, "'categories' is {}"),
        (("images", 0), 5, "images[0] is 5, not an object"),
        (("images", 1, "id"), 7, "images[1].id is 7, which images[0] has already"),
        (("images", 1, "id"), "9", "images[1].id is '9'; it must be a whole number"),
        (("images", 1, "id"), True, "images[1].id is True; it must be a whole number"),
        (("images", 0, "file_name"), "", "images[0].file_name is ''; it must be a text that is"),
        (("images", 0, "width"), 0, "images[0].width is 0; it must be a positive number"),
        (("images", 0, "height"), None, "images[0].height is missing"),
        (("categories", 0, "name"), 3, "categories[0].name is 3; it must be a text"),
        (("categories", 0, "id"), 5, "categories[1].id is 5, which categories[0] has already"),
        (("annotations", 1, "id"), 3, "annotations[1].id is 3, which annotations[0] has"),
        (("annotations", 0, "image_id"), 8, "annotations[0].image_id is 8; it must be an id that"),
        (("annotations", 0, "category_id"), 1, "annotations[0].category_id is 1; it must be an"),
        (("annotations", 0, "bbox"), None, "annotations[0].bbox is missing"),
        (("annotations", 0, "bbox"), [1, 2, 3], "annotations[0].bbox is [1, 2, 3]; it must be"),
        (("annotations", 0, "bbox"), [1, 2, 3, "4"], "annotations[0].bbox is [1, 2, 3, '4']"),
        (("annotations", 0, "bbox"), [1, 2, -3, 4], "must be of non-negative width and height"),
        (("annotations", 0, "bbox", 0), float("nan"), "annotations[0].bbox is [nan, 2, 3.5, 4]"),
        (("annotations", 0, "bbox", 3), float("inf"), "finite numbers"),
        (("annotations", 0, "bbox", 3), 10**400, "finite numbers"),
        (("annotations", 0, "area"), 10**400, "a finite number of square pixels"),
        (("images", 0, "id"), 2**64, "images[0].id is 18446744073709551616; it must be a whole"),
        (
            ("categories", 0, "name"),
            "\ud800",
            "categories[0].name is '\\ud800'; it must be a text of",
        ),
        (("images", 0, "file_name"), "a\udcff.png", "must be a text of whole Unicode characters"),
        (("annotations", 0, "iscrowd"), 2, "annotations[0].iscrowd is 2; it must be 0 or 1"),
        (("annotations", 0, "area"), -1, "annotations[0].area is -1; it must be a finite number"),
    ],
)
def test_each_broken_rule_is_named_with_file_place_and_value(tmp_path, place, value, message):
    content = deepcopy(GOOD)
    target = content
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(DescryError) as caught:
        _load(tmp_path, content)
    assert message in str(caught.value)
    assert "some.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a JSON file"),
        (b"\xff\xfe{}", "not a JSON file in UTF-8"),
        (b"[]", "the top level is []"),
        (b"[" * 100_000, "not a JSON file"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, content, message):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(DescryError, match=r"some\.json") as caught:
        load_coco(path)
    assert message in str(caught.value)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(DescryError, match=r"absent\.json: no such COCO file"):
        load_coco(tmp_path / "absent.json")
    with pytest.raises(DescryError, match="cannot be read"):
        load_coco(tmp_path)


def _write(path, annotations, images=None):
    write_coco(
        path,
        info={"description": "test"},
        licenses=[],
        categories=[("cell", "thing"), ("nucleus", "")],
        images=iter(images or [{"file_name": "a.png", "width": 40, "height": 30, "view": "PA"}]),
        annotations=iter(annotations),
    )


def test_written_file_has_contiguous_ids_from_one(tmp_path):
    box = {"image_id": 1, "category_id": 2, "bbox": (1.5, 2.0, 3.0, 4.0)}
    _write(tmp_path / "a.json", [box, {**box, "iscrowd": 1, "area": 5.0}])
    coco = load_coco(tmp_path / "a.json")
    assert coco["categories"] == [
        {"id": 1, "name": "cell", "supercategory": "thing"},
        {"id": 2, "name": "nucleus", "supercategory": ""},
    ]
    assert coco["images"] == [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 30, "view": "PA"}
    ]
    first, second = coco["annotations"]
    assert first == {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "bbox": [1.5, 2.0, 3.0, 4.0],
        "area": 12.0,
        "iscrowd": 0,
    }
    assert (second["id"], second["area"], second["iscrowd"]) == (2, 5.0, 1)


def test_written_bytes_are_literally_these(tmp_path):
    _write(tmp_path / "a.json", [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}])
    assert (tmp_path / "a.json").read_text() == (
        '{\n"info": {"description": "test"},\n"licenses": [],\n"categories": [\n'
        '{"id": 1, "name": "cell", "supercategory": "thing"},\n'
        '{"id": 2, "name": "nucleus", "supercategory": ""}\n],\n"images": [\n'
        '{"id": 1, "file_name": "a.png", "width": 40, "height": 30, "view": "PA"}\n],\n'
        '"annotations": [\n'
        '{"id": 1, "area": 12, "iscrowd": 0, "image_id": 1, "category_id": 1, '
        '"bbox": [1, 2, 3, 4]}\n]\n}\n'
    )


def test_a_file_without_images_is_valid(tmp_path):
    write_coco(tmp_path / "a.json", info={}, licenses=[], categories=[], images=[], annotations=[])
    coco = load_coco(tmp_path / "a.json")
    assert coco["images"] == coco["annotations"] == coco["categories"] == []


@pytest.mark.parametrize(
    "wrong", [{"image_id": 0}, {"image_id": 2}, {"category_id": 0}, {"category_id": 3}]
)
def test_a_reference_to_nothing_is_not_written(tmp_path, wrong):
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], **wrong}
    with pytest.raises(ValueError, match=f"annotation 1: {next(iter(wrong))}"):
        _write(tmp_path / "a.json", [box])
    assert list(tmp_path.iterdir()) == []  # neither the file nor a part of it


def test_nan_is_not_written(tmp_path):
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, float("nan"), 4]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        _write(tmp_path / "a.json", [box])
    assert list(tmp_path.iterdir()) == []


def annotations(path: Path, count: int, odd: str = "") -> Path:
    """A COCO file of so many annotations of 100 images, not in the order of their ids."""
    drawn = np.random.default_rng(1)
    boxes = drawn.integers(0, 2000, (count, 4)) / 100
    rows = [
        {"id": count - n, "image_id": n % 100, "category_id": 3 + n % 2, "bbox": box}
        | {"area": box[2] * box[3], "iscrowd": int(n % 7 == 0)}
        | ({"attributes": {"rotation": n}} if n % 11 == 0 else {})
        for n, box in enumerate(boxes.tolist())
    ]
    images = [{"id": n, "file_name": f"{n}.png", "width": 40.0, "height": None} for n in range(100)]
    categories = [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}]
    text = json.dumps({"images": images, "annotations": rows, "categories": categories})
    path.write_text(text.replace('"iscrowd": 1', '"iscrowd": 1' + odd))
    return path


def test_a_table_has_what_the_file_has_whichever_way_it_is_read(tmp_path):
    quick = load_table(annotations(tmp_path / "a.json", 300))
    lenient = load_table(annotations(tmp_path / "b.json", 300, ', "score": NaN'))
    coco = load_coco(tmp_path / "b.json", foreign=True)["annotations"]
    for table in (quick, lenient):
        assert table.ids.tolist() == [entry["id"] for entry in coco]
        assert table.image_ids.tolist() == [entry["image_id"] for entry in coco]
        assert table.category_ids.tolist() == [entry["category_id"] for entry in coco]
        assert table.boxes.tolist() == [entry["bbox"] for entry in coco]
        assert table.crowds.tolist() == [bool(entry["iscrowd"]) for entry in coco]
        assert table.rotations == {n: n for n in range(0, 300, 11)}
        assert table.images[5]["file_name"] == "5.png" and table.images[5]["width"] is None
        rows = table.rows_by_image()
        assert table.ids[rows[7]].tolist() == [93, 193, 293]


def test_a_table_takes_little_more_memory_than_its_file(tmp_path):
    path = annotations(tmp_path / "a.json", 150_000)
    code = (
        "import resource, sys; from pathlib import Path; from pipeline.data import coco_table\n"
        "size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = size(); table = coco_table.load_table(Path(sys.argv[1]))\n"
        "print(len(table.ids), size() - before)"
    )
    told = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    count, grown = map(int, told.stdout.split())
    assert count == 150_000
    assert grown < 4 * path.stat().st_size  # as objects it takes six times its size
