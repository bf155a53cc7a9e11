"""COD10K: the committed sample, layouts, and every kind of wrong input."""

import json
from pathlib import Path

import numpy as np
import pytest
from cod10k_factory import (
    FISH,
    MOTH,
    SAMPLE,
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
    write_json,
)
from PIL import Image
from pycocotools.coco import COCO
from toy_source import opened

from pipeline.convert import convert, open_source
from pipeline.convert.formats.masks import read_mask
from pipeline.convert.records import Ledger
from pipeline.errors import DescryError


def test_sample_literally() -> None:
    records, ledger = scan(opened("cod10k", SAMPLE))
    assert list(records) == sorted(records, key=lambda key: (not key.startswith("train"), key))
    assert [r.split for r in records.values()] == ["train"] * 56 + ["test"] * 20
    assert sum(not r.boxes for r in records.values()) == 12
    first = records["train/COD10K-CAM-1-Aquatic-6-Fish-90001"]
    assert boxes_of(first) == [
        (50.0, 43.0, 52.0, 87.0, "camouflaged"),
        (136.0, 57.0, 92.0, 45.0, "camouflaged"),
    ]
    assert (first.path, first.size, first.group) == (
        "Train/Image/COD10K-CAM-1-Aquatic-6-Fish-90001.jpg",
        (320, 240),
        "",
    )
    assert first.attributes == {
        "camouflaged": True,
        "boxes_from": "json",
        "super_class": "Aquatic",
        "sub_class": "fish",
        "listed_objects": 2,
    }
    assert ledger.rows_read == {
        "Train/CAM_Instance_Train.json": 60,
        "Test/CAM_Instance_Test.json": 22,
    }


def test_sample_gives_the_same_boxes_by_json_and_by_index_masks() -> None:
    by_json, _ = scan(opened("cod10k", SAMPLE, classes="sub"))
    source = opened("cod10k", SAMPLE, annotations="instance", classes="sub")
    by_mask, _ = scan(source)
    assert by_json.keys() == by_mask.keys()
    for key, record in by_mask.items():
        picture = source.read(record)
        assert boxes_of(picture) == boxes_of(by_json[key])
        assert picture.pixels.shape == (240, 320, 3)
        assert picture.verbatim
        assert picture.notes == ()


def test_sample_says_that_it_is_synthetic() -> None:
    _, ledger = scan(opened("cod10k", SAMPLE))
    assert sum("NOT COD10K" in note for note in ledger.notes) == 2
    assert "NOT COD10K" in (SAMPLE / "Readme.txt").read_text()
    assert "not COD10K" in (SAMPLE / "README.md").read_text()
    with Image.open(SAMPLE / "Train/Image/COD10K-CAM-1-Aquatic-6-Fish-90001.jpg") as image:
        assert b"SYNTHETIC" in image.info["comment"]


def test_sample_is_small_and_whole() -> None:
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_500_000
    for split, count in (("Train", 56), ("Test", 20)):
        for folder in ("Image", "GT_Object", "GT_Instance", "GT_Edge"):
            assert len(list((SAMPLE / split / folder).iterdir())) == count


def test_sample_converts(tmp_path: Path) -> None:
    source = opened("cod10k", SAMPLE, classes="super")
    report = convert(
        source, tmp_path / "out", seed=0, val_fraction=0.1, test_fraction=0.1, workers=1
    )
    assert report["images"] == {"in": 76, "out": 76, "dropped": {}}
    assert report["boxes"] == {"in": 82, "out": 82, "clipped": 0, "dropped": {}}
    held = {split: counts["images"] for split, counts in report["splits"].items()}
    assert held == {"train": 50, "val": 6, "test": 20}
    test = COCO(str(tmp_path / "out" / "annotations" / "test.json"))
    assert [c["name"] for c in test.loadCats(test.getCatIds())] == [
        "Aquatic",
        "Terrestrial",
        "Flying",
        "Amphibian",
        "Other",
    ]
    assert len(test.getAnnIds()) == 22


def test_release_in_a_folder_of_its_own(tmp_path: Path) -> None:
    release(tmp_path / "COD10K-v3")
    records, _ = scan(open_source("cod10k", tmp_path))
    assert records[f"train/{FISH}"].path == f"COD10K-v3/Train/Image/{FISH}.jpg"


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("TrainDataset/Imgs", "TestDataset/COD10K/Imgs"),
        ("TrainDataset/COD10K/Imgs", "TestDataset/COD10K/Imgs"),
        ("pack/TrainDataset/Image", "pack/TestDataset/COD10K/Image"),
    ],
)
def test_sinet_layout_with_camo_images_mixed_in(train: str, test: str, tmp_path: Path) -> None:
    for folder, names in ((train, (FISH, "camourflage_00012")), (test, (MOTH,))):
        for name in names:
            save_image(tmp_path / folder / f"{name}.jpg")
            mask = two_fish(levels=(255, 255))
            save_mask(tmp_path / folder / ".." / "GT" / f"{name}.png", mask)
            save_mask(tmp_path / folder / ".." / "Edge" / f"{name}.png", mask)
    source = open_source("cod10k", tmp_path)
    records, ledger = scan(source)
    assert list(records) == [f"train/{FISH}", f"test/{MOTH}"]
    assert boxes_of(source.read(records[f"train/{FISH}"])) == [(4, 2, 26, 13, "camouflaged")]
    camo = ("image", f"{train}/camourflage_00012.jpg", "CAMO image, not of COD10K")
    assert camo in drops_of(ledger)
    masks = [where for kind, where, _ in drops_of(ledger) if kind == "file"]
    assert len(masks) == 4  # three edges and the mask of the CAMO image
    assert ledger.notes[0] == "layout: SINet"


def test_dcnet_layout(tmp_path: Path) -> None:
    save_image(tmp_path / "COD10K" / "Train_Image_CAM" / f"{FISH}.jpg")
    save_image(tmp_path / "COD10K" / "Test_Image_CAM" / f"{MOTH}.jpg")
    folder = tmp_path / "COD10K" / "annotations"
    folder.mkdir()
    train = coco([image_row(3, FISH)], [box_row(3, [4, 5, 6, 10])])
    (folder / "train_instance.json").write_text(json.dumps(train))
    test = coco([image_row(1, MOTH)], [box_row(1, [1, 2, 3, 4])])
    (folder / "test2026.json").write_text(json.dumps(test))
    records, ledger = scan(open_source("cod10k", tmp_path))
    assert boxes_of(records[f"test/{MOTH}"]) == [(1, 2, 3, 4, "camouflaged")]
    assert list(ledger.rows_read) == [
        "COD10K/annotations/train_instance.json",
        "COD10K/annotations/test2026.json",
    ]


def test_json_in_a_folder_annotations(tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "annotations").mkdir()
    for split, name in (("Train", "train_instance.json"), ("Test", "test2026.json")):
        source = tmp_path / split / f"CAM_Instance_{split}.json"
        source.rename(tmp_path / "annotations" / name)
    records, _ = scan(opened("cod10k", tmp_path))
    assert boxes_of(records[f"train/{FISH}"]) == [(4, 5, 6, 10, "camouflaged")]


def test_missing_empty_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(DescryError, match="does not exist"):
        open_source("cod10k", tmp_path / "nowhere")
    with pytest.raises(DescryError, match=r"is empty.*COD10K-v3"):
        open_source("cod10k", tmp_path)
    (tmp_path / "stage_2_train_images").mkdir()
    (tmp_path / "stage_2_train_labels.csv").write_text("patientId\n")
    with pytest.raises(DescryError, match="looks like rsna"):
        open_source("cod10k", tmp_path)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ((), "it holds nothing"),
        (("Train",), "it holds Train. Known layouts"),
        (("Train/Images",), "COD10K v3: Train/Image"),
        (("Train/GT_Detection",), "is it COD10K v1 or v2"),
        (("TestDataset/CAMO/Imgs", "TestDataset/NC4K/Imgs"), "is it CAMO"),
        (("a", "b", "c", "d", "e", "f", "g"), "it holds a, b, c, d, e, f, ... (7 entries)"),
    ],
)
def test_unknown_layouts(folders: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DescryError, match="no known COD10K layout") as error:
        scan(opened("cod10k", tmp_path))
    assert said in str(error.value)


def test_raw_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "COD10K-v3.zip").write_text("")
    with pytest.raises(DescryError, match="not a folder"):
        scan(opened("cod10k", tmp_path / "COD10K-v3.zip"))


def test_one_split_missing(tmp_path: Path) -> None:
    save_image(tmp_path / "Train" / "Image" / f"{FISH}.jpg")
    source = open_source("cod10k", tmp_path)
    with pytest.raises(DescryError, match="the test images are missing: Train/Image is there"):
        list(source.scan(Ledger()))


def test_no_images_in_a_split(tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "Test" / "Image" / f"{MOTH}.jpg").rename(tmp_path / "Test" / "moth.jpg")
    with pytest.raises(DescryError, match=r"Test/Image: holds no images"):
        scan(opened("cod10k", tmp_path))


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ("auto", "CAM_Instance_Train.json .* or the folder GT_Instance .* or .* GT_Object"),
        ("json", "annotations='json': CAM_Instance_Train.json"),
        ("instance", "the folder GT_Instance .v3. is missing .available: none"),
    ],
)
def test_annotations_missing(annotations: str, said: str, tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "Train" / "CAM_Instance_Train.json").unlink()
    (tmp_path / "Train" / "GT_Instance").mkdir()  # empty
    with pytest.raises(DescryError, match=said):
        scan(opened("cod10k", tmp_path, annotations=annotations))


def test_mask_folder_without_masks(tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "Train" / "GT_Instance").mkdir()
    (tmp_path / "Train" / "GT_Instance" / "notes.txt").write_text("")
    with pytest.raises(DescryError, match="holds no masks"):
        scan(opened("cod10k", tmp_path, annotations="instance"))


def test_unknown_class_depends_on_the_class_system(tmp_path: Path) -> None:
    release(tmp_path)
    stranger = "COD10K-CAM-1-Aquatic-6-Unicorn-9"
    save_image(tmp_path / "Train" / "Image" / f"{stranger}.jpg")
    images = [image_row(7, FISH), image_row(9, stranger)]
    rows = [box_row(7, [4, 5, 6, 10]), box_row(9, [1, 1, 2, 2])]
    write_json(tmp_path, "Train", coco(images, rows))
    for classes in ("single", "super"):
        records, _ = scan(opened("cod10k", tmp_path, classes=classes))
        assert f"train/{stranger}" in records
    records, ledger = scan(opened("cod10k", tmp_path, classes="sub"))
    assert f"train/{stranger}" not in records
    assert next((d.kind, d.reason, d.detail) for d in ledger.drops) == (
        "image",
        "unknown class",
        "'Aquatic-Unicorn' is not one of the sub-classes",
    )


def test_a_messy_release_balances_and_accounts_for_everything(tmp_path: Path) -> None:
    root = release(tmp_path / "raw")
    images = root / "Train" / "Image"
    frog, worm, owl = (
        "COD10K-CAM-4-Amphibian-67-Frog-4",
        "COD10K-CAM-2-Terrestrial-48-Worm-5",  # 49 is worm
        "COD10K-CAM-3-Flying-65-Owl-6",
    )
    save_image(images / f"{frog}.jpg")  # no annotation
    save_image(images / f"{worm}.jpg", tone=150)
    save_image(images / f"{worm}.png", tone=151)  # a second file of the same name
    save_image(images / "holiday.jpg")
    (images / "COD10K-NonCAM-3-Flying-8.jpg").write_bytes(b"\xff\xd8\xff not a JPEG")
    (images / "Thumbs.db").write_text("")
    rows = [
        box_row(7, [4, 5, 6, 10]),
        box_row(7, [30, 20, 20, 20]),  # clipped
        box_row(7, [1, 1, 0, 5]),  # no width
        box_row(7, [50, 1, 5, 5]),  # outside
        box_row(5, [1, 1, 9, 9]),
        box_row(6, [1, 1, 9, 9]),  # the owl is not there
        box_row(99, [1, 1, 9, 9]),
    ]
    listed = [image_row(7, FISH), image_row(5, worm), image_row(6, owl)]
    write_json(root, "Train", coco(listed, rows))
    report = convert(
        open_source("cod10k", root),
        tmp_path / "out",
        seed=0,
        val_fraction=0.0,
        test_fraction=0.1,
        workers=1,
    )
    assert report["images"]["dropped"] == {
        "annotation without image": 1,
        "another image has the same name": 1,
        "corrupt image": 1,
        "file name is not of the COD10K pattern": 1,
        "image without annotation": 1,
    }
    assert report["rows"]["read"] == 8
    assert report["rows"]["dropped"] == {
        "annotation of an unknown image id": 1,
        "annotation without image": 1,
        "neither a usable bbox nor a usable segmentation": 1,
    }
    assert report["boxes"]["clipped"] == 1
    assert report["boxes"]["dropped"] == {"outside the image": 1}
    assert report["splits"]["train"] == {
        "images": 3,
        "negatives": 1,
        "boxes": 3,
        "classes": {"camouflaged": 3},
    }
    contradicted = (
        "train: in 1 file names the number of the class contradicts its name; the name was taken"
    )
    assert contradicted in report["notes of the converter"]
    assert "Thumbs.db" in (tmp_path / "out" / "dropped.csv").read_text()


def test_equal_images_in_train_and_test_do_not_leak(tmp_path: Path) -> None:
    root = release(tmp_path / "raw")
    copy = root / "Train" / "Image" / "COD10K-NonCAM-3-Flying-1515.jpg"
    copy.write_bytes((root / "Test" / "Image" / f"{MOTH}.jpg").read_bytes())
    report = convert(
        open_source("cod10k", root),
        tmp_path / "out",
        seed=0,
        val_fraction=0.0,
        test_fraction=0.1,
        workers=1,
    )
    assert report["images"]["dropped"] == {"duplicate of an image in another split": 1}
    assert report["splits"]["test"]["images"] == 1


def test_the_committed_sample_is_what_the_script_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SAMPLE.parent))
    import make_sample

    rng = np.random.default_rng([make_sample.SEED, 90001, 1])
    kind = sorted(make_sample.TITLES)[1]
    count = int(rng.choice((1, 2, 3), p=(0.66, 0.24, 0.1)))
    scene = make_sample.camouflaged(rng, "frog", kind, count)
    (committed,) = (SAMPLE / "Train" / "GT_Instance").glob("*-90002.png")
    differing = (read_mask(committed).values != scene.instances).mean()
    assert differing < 0.001  # other library versions may round an outline differently
    (image,) = (SAMPLE / "Train" / "Image").glob("*-90002.jpg")
    with Image.open(image) as stored:
        distance = np.abs(np.asarray(stored, float) - scene.pixels).mean()
    assert distance < 8.0  # grey levels lost to JPEG
