"""COD10K: file names, the JSON, images without camouflage."""

from pathlib import Path

import pytest
from cod10k_factory import (
    FISH,
    MOTH,
    PLANT,
    H,
    W,
    box_row,
    boxes_of,
    coco,
    drops_of,
    image_row,
    release,
    save_image,
    save_mask,
    scan,
    two_fish,
    with_masks,
    write_json,
)
from PIL import Image
from toy_source import opened

from pipeline.convert.datasets.cod10k.names import category_list, label_of, parse_name
from pipeline.convert.records import Unreadable
from pipeline.errors import DescryError


@pytest.mark.parametrize(
    ("stem", "camouflaged", "super_class", "sub_class"),
    [
        ("COD10K-CAM-1-Aquatic-1-BatFish-6", True, "Aquatic", "batFish"),
        ("COD10K-CAM-1-Aquatic-1-batfish-6", True, "Aquatic", "batFish"),
        ("COD10K-CAM-2-Terrestrial-41-Raccoon-7", True, "Terrestrial", "reccoon"),
        ("COD10K-CAM-3-Flying-55-Butterfly-3330", True, "Flying", "butterfly"),
        ("COD10K-CAM-5-Other-69-Other-5065", True, "Other", "other"),
        ("COD10K-CAM-1- Aquatic-3-Crab-32", True, "Aquatic", "crab"),
        ("COD10K-CAM-4-Amphibian-9", True, "Amphibian", None),
        ("COD10K-CAM-1-Aquatic-6-Unicorn-9", True, "Aquatic", None),
        ("COD10K-NonCAM-1-Amphibian-3", False, "Amphibian", None),
        ("COD10K-NonCAM-3-Flying-1515", False, "Flying", None),
        ("COD10K-NonCAM-5-Background-5-Vegetation-4854", False, "Other", None),
        ("COD10K-NonCAM-5-Background-4854", False, "Other", None),
        ("COD10K-NonCAM-12", False, None, None),
        ("cod10k-noncam-3-flying-1515", False, "Flying", None),
    ],
)
def test_names(
    stem: str, camouflaged: bool, super_class: str | None, sub_class: str | None
) -> None:
    name = parse_name(stem)
    assert name is not None
    assert (name.camouflaged, name.super_class, name.sub_class) == (
        camouflaged,
        super_class,
        sub_class,
    )
    assert name.agrees


@pytest.mark.parametrize(
    "stem", ["camourflage_00012", "COD10K-1-Aquatic-3", "COD10K-CAM-1-Aquatic-6-Fish", "animal-1"]
)
def test_names_of_another_pattern(stem: str) -> None:
    assert parse_name(stem) is None


def test_a_class_number_that_contradicts_the_name() -> None:
    name = parse_name("COD10K-CAM-1-Aquatic-7-Fish-9")  # 7 is flounder
    assert name is not None
    assert (name.sub_class, name.agrees) == ("fish", False)
    high = parse_name("COD10K-CAM-1-Aquatic-70-Fish-9")
    assert high is not None
    assert not high.agrees


def test_categories() -> None:
    assert category_list("single") == [("camouflaged", "")]
    assert [name for name, _ in category_list("super")] == [
        "Aquatic",
        "Terrestrial",
        "Flying",
        "Amphibian",
        "Other",
    ]
    sub = category_list("sub")
    assert len(sub) == 69
    expected = {
        1: ("batFish", "Aquatic"),
        20: ("turtle", "Aquatic"),
        21: ("ant", "Terrestrial"),
        41: ("reccoon", "Terrestrial"),
        49: ("worm", "Terrestrial"),
        50: ("bat", "Flying"),
        66: ("owlfly", "Flying"),
        67: ("frog", "Amphibian"),
        68: ("toad", "Amphibian"),
        69: ("other", "Other"),
    }
    assert {number: sub[number - 1] for number in expected} == expected


@pytest.mark.parametrize(
    ("classes", "label"), [("single", "camouflaged"), ("super", "Flying"), ("sub", "moth")]
)
def test_label_by_class_system(classes: str, label: str, tmp_path: Path) -> None:
    records, _ = scan(opened("cod10k", release(tmp_path), classes=classes))
    assert boxes_of(records[f"test/{MOTH}"]) == [(1.0, 2.0, 3.0, 4.0, label)]
    name = parse_name(MOTH)
    assert name is not None
    assert label_of(name, classes) == label


def test_json_images_are_found_by_id_and_the_category_is_ignored(tmp_path: Path) -> None:
    release(tmp_path)
    other = "COD10K-CAM-4-Amphibian-67-Frog-8"
    save_image(tmp_path / "Train" / "Image" / f"{other}.jpg")
    rows = [box_row(5, [1, 1, 5, 5]), box_row(900, [2, 2, 6, 6], category_id=44)]
    write_json(tmp_path, "Train", coco([image_row(900, other), image_row(5, FISH)], rows))
    records, _ = scan(opened("cod10k", tmp_path, classes="sub"))
    assert boxes_of(records[f"train/{FISH}"]) == [(1.0, 1.0, 5.0, 5.0, "fish")]
    assert boxes_of(records[f"train/{other}"]) == [(2.0, 2.0, 6.0, 6.0, "frog")]
    assert (
        records[f"train/{other}"].boxes[0].where == "Train/CAM_Instance_Train.json:annotations[1]"
    )


@pytest.mark.parametrize(
    "bbox", [None, [], [1, 2, 3], "1 2 3 4", [1, 2, float("nan"), 4], [4, 5, 0, 10]]
)
def test_json_box_is_measured_from_the_segmentation(bbox: object, tmp_path: Path) -> None:
    release(tmp_path)
    row = box_row(7, bbox, segmentation=[[4, 5, 10, 5, 10, 15, 4, 15]], iscrowd=1)
    write_json(tmp_path, "Train", coco([image_row(7, FISH)], [row]))
    records, ledger = scan(opened("cod10k", tmp_path))
    assert boxes_of(records[f"train/{FISH}"]) == [(4.0, 5.0, 6.0, 10.0, "camouflaged")]
    assert records[f"train/{FISH}"].boxes[0].iscrowd
    expected = "Train/CAM_Instance_Train.json: 1 boxes were measured from their segmentation"
    assert expected in ledger.notes


def test_json_rows_that_cannot_be_used(tmp_path: Path) -> None:
    release(tmp_path)
    rows = [
        box_row(7, [4, 5, 6, 10]),
        box_row(7, None),
        box_row(8, [1, 1, 2, 2]),
        box_row([], [1, 1, 2, 2]),
        "row",
    ]
    content = coco([image_row(7, FISH), {"id": 9}, "image"], rows)
    write_json(tmp_path, "Train", content)
    records, ledger = scan(opened("cod10k", tmp_path))
    where = "Train/CAM_Instance_Train.json"
    assert len(records[f"train/{FISH}"].boxes) == 1
    assert drops_of(ledger) == [
        ("image", f"{where}:images[1]", "malformed image entry"),
        ("image", f"{where}:images[2]", "malformed image entry"),
        ("row", f"{where}:annotations[1]", "neither a usable bbox nor a usable segmentation"),
        ("row", f"{where}:annotations[2]", "annotation of an unknown image id"),
        ("row", f"{where}:annotations[3]", "annotation of an unknown image id"),
        ("row", f"{where}:annotations[4]", "malformed annotation"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": [', "not valid JSON at line 1, column 13"),
        ("", "not valid JSON"),
        ([1, 2], "holds a JSON list"),
        ({"images": []}, "'annotations' is missing"),
        ({"images": {}, "annotations": []}, "'images' is a dict, not a list"),
        (coco([image_row(7, FISH), image_row(7, MOTH)], []), "image id 7 stands for"),
    ],
)
def test_json_that_cannot_be_used_as_a_whole(content: object, said: str, tmp_path: Path) -> None:
    write_json(release(tmp_path), "Train", content)
    with pytest.raises(DescryError, match=r"CAM_Instance_Train\.json") as error:
        scan(opened("cod10k", tmp_path))
    assert said in str(error.value)


def test_json_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "Test" / "CAM_Instance_Test.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(DescryError, match="not a JSON text"):
        scan(opened("cod10k", tmp_path))


def test_json_names_one_file_under_two_ids(tmp_path: Path) -> None:
    release(tmp_path)
    rows = [box_row(7, [4, 5, 6, 10]), box_row(8, [1, 1, 2, 2])]
    images = [image_row(7, FISH), {"id": 8, "file_name": f"Train\\Image\\{FISH}.jpg"}]
    write_json(tmp_path, "Train", coco(images, rows))
    records, ledger = scan(opened("cod10k", tmp_path))
    assert [b[:4] for b in boxes_of(records[f"train/{FISH}"])] == [(4, 5, 6, 10), (1, 1, 2, 2)]
    assert ledger.drops == []


def test_cam_image_whose_boxes_lie_outside_is_no_negative(tmp_path: Path) -> None:
    release(tmp_path)
    write_json(tmp_path, "Train", coco([image_row(7, FISH)], [box_row(7, [W, 5, 6, 10])]))
    source = opened("cod10k", tmp_path)
    records, _ = scan(source)
    with pytest.raises(Unreadable, match="no box lies inside the image"):
        source.read(records[f"train/{FISH}"])


def test_json_of_another_image_size_is_refused(tmp_path: Path) -> None:
    release(tmp_path)
    row = image_row(7, FISH, width=W * 2, height=H * 2)
    write_json(tmp_path, "Train", coco([row], [box_row(7, [4, 5, 6, 10])]))
    source = opened("cod10k", tmp_path)
    records, _ = scan(source)
    with pytest.raises(Unreadable, match="image size differs from the annotation"):
        source.read(records[f"train/{FISH}"])


def test_boxes_follow_an_exif_orientation(tmp_path: Path) -> None:
    release(tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned clockwise by a quarter
    save_image(tmp_path / "Train" / "Image" / f"{FISH}.jpg", exif=turned)
    source = opened("cod10k", tmp_path)
    records, _ = scan(source)
    picture = source.read(records[f"train/{FISH}"])
    assert picture.pixels.shape == (W, H, 3)
    # stored (4, 5, 6, 10) in 40 x 30: x' = 30 - 5 - 10, y' = 4
    assert boxes_of(picture) == [(15.0, 4.0, 10.0, 6.0, "camouflaged")]


def test_the_text_list_is_only_a_cross_check(tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "Train" / "CAM-NonCAM_Instance_Train.txt").write_text(
        f"[INFO] {FISH}.jpg 12\nAquatic/Fish a b\n[INFO] 5 {PLANT}.jpg 0\nBackground/Vegetation\n"
        "[INFO] COD10K-NonCAM-3-Flying-77.jpg 0\nnonsense\n[INFO]\n"
    )
    records, ledger = scan(opened("cod10k", tmp_path))
    assert len(records[f"train/{FISH}"].boxes) == 1
    assert records[f"train/{PLANT}"].attributes["listed_objects"] == 0
    assert [note for note in ledger.notes if note.startswith("CAM-NonCAM")] == [
        "CAM-NonCAM_Instance_Train.txt: 1 listed images are not in the folder, the first is "
        "COD10K-NonCAM-3-Flying-77",
        "CAM-NonCAM_Instance_Train.txt: 1 images have another number of objects than in the "
        f"annotations, the first is {FISH} (12 listed, 1 annotated)",
    ]
    assert "Train/CAM-NonCAM_Instance_Train.txt" in ledger.annotation_files


def test_noncam_images_are_negatives(tmp_path: Path) -> None:
    records, ledger = scan(opened("cod10k", release(tmp_path)))
    plant = records[f"train/{PLANT}"]
    assert plant.boxes == ()
    assert plant.attributes == {
        "camouflaged": False,
        "super_class": "Other",
        "sub_class": "Vegetation",
    }
    assert ledger.drops == []


def test_noncam_images_can_be_left_out(tmp_path: Path) -> None:
    records, ledger = scan(opened("cod10k", release(tmp_path), noncam=False))
    assert list(records) == [f"train/{FISH}", f"test/{MOTH}"]
    assert drops_of(ledger) == [("image", f"Train/Image/{PLANT}.jpg", "NonCAM image left out")]


def test_noncam_image_with_objects_is_dropped(tmp_path: Path) -> None:
    release(tmp_path)
    images = [image_row(7, FISH), image_row(8, PLANT)]
    rows = [box_row(7, [4, 5, 6, 10]), box_row(8, [1, 1, 2, 2])]
    write_json(tmp_path, "Train", coco(images, rows))
    _, ledger = scan(opened("cod10k", tmp_path))
    reason = "objects annotated in a NonCAM image"
    where = "Train/CAM_Instance_Train.json:annotations[1]"
    assert drops_of(ledger) == [
        ("image", f"Train/Image/{PLANT}.jpg", reason),
        ("row", where, f"its image was dropped: {reason}"),
    ]


def test_noncam_mask_must_be_empty(tmp_path: Path) -> None:
    source = opened("cod10k", with_masks(tmp_path))
    records, _ = scan(source)
    assert source.read(records[f"train/{PLANT}"]).boxes == ()
    save_mask(tmp_path / "Train" / "GT_Instance" / f"{PLANT}.png", two_fish())
    with pytest.raises(Unreadable, match="objects annotated in a NonCAM image"):
        source.read(records[f"train/{PLANT}"])
