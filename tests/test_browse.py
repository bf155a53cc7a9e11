"""The local page: what became of each box, which pictures come first, and who may ask."""

import csv
import http.client
import io
import json
from math import log
from threading import Thread

import numpy as np
import pytest
from browse_factory import CATEGORIES, make_browsed
from dicom_factory import write
from PIL import Image
from predict_factory import tiny_model
from project_factory import ROOT

from pipeline.browse.boxes import BOX_KINDS
from pipeline.browse.collection import Collection, Filters
from pipeline.browse.pictures import read_pixels
from pipeline.browse.review import COLUMNS, Review, Target
from pipeline.browse.server import BrowseServer
from pipeline.browse.session import Session
from pipeline.browse.sources import open_splits
from pipeline.config import load_params
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.stages.browse import BrowseOptions, browse


@pytest.fixture
def dataset(tmp_path):
    return make_browsed(tmp_path)


@pytest.fixture
def collection(dataset):
    found = dataset / "found.json"
    return Collection(open_splits(dataset / "coco", predictions=found, threshold=0.5))


def shown(collection, i):
    table = collection.boxes
    return [
        (BOX_KINDS[table.kind[row]], round(table.loss[row], 4), round(table.disagreement[row], 4))
        for row in range(*collection.rows(i).indices(len(table)))
    ]


def test_every_box_has_its_kind_its_loss_and_its_disagreement(collection):
    names = [(entry.split, entry.file_name) for entry in collection.images]
    assert names == [("train", "4.png"), ("test", "1.png"), ("test", "2.png"), ("test", "3.png")]
    overlap = 800 / 2400
    assert shown(collection, 0) == [("object", 0, 0)]  # nobody looked
    assert shown(collection, 1) == [
        ("found", round(-log(0.9), 4), 0.1),
        ("missed", round(-log(0.01), 4), 1),
        ("right", 0, 0),
        ("class", round(-log(0.4), 4), 0.6),
    ]
    assert shown(collection, 2) == [
        ("missed", round(-log(0.01), 4), round(1 - 0.8 * overlap, 4)),
        ("crowd", 0, 0),
        ("localisation", round(-log(0.2), 4), round(0.8 * (1 - overlap), 4)),
    ]
    assert shown(collection, 3) == [("background", round(-log(0.3), 4), 0.7)]


def test_annotation_ids_stay_beside_their_boxes(dataset):
    path = dataset / "coco/annotations/test.json"
    content = json.loads(path.read_text())
    content["annotations"].reverse()  # now neither by image nor by class
    path.write_text(json.dumps(content))
    table = Collection(open_splits(dataset / "coco", split="test")).boxes
    boxes = {row["id"]: row["bbox"] for row in content["annotations"]}
    assert [boxes[i] for i in table.annotation.tolist()] == table.boxes.tolist()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, "4123"),
        ({"split": "test"}, "123"),
        ({"label": "clump"}, "13"),
        ({"kind": "missed"}, "12"),
        ({"kind": "background"}, "3"),
        ({"size": "small"}, "123"),
        ({"size": "medium"}, "42"),
        ({"size": "large"}, ""),
        ({"low": "0.75"}, "12"),
        ({"low": "0.5", "high": "0.75"}, "13"),
        ({"order": "loss"}, "2134"),  # 1 and 2 miss an object each; the rest of 2 costs more
        ({"order": "disagreement"}, "1234"),
        ({"order": "boxes", "split": "test"}, "123"),
        ({"order": "loss", "label": "clump"}, "13"),
    ],
)
def test_filters_and_orders(collection, query, names):
    chosen = collection.chosen(Filters.of(query)).tolist()
    assert "".join(collection.images[i].file_name[0] for i in chosen) == names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "tset"}, "--split tset: must be one of train, test"),
        ({"threshold": 1.5}, "--threshold 1.5: must be a score from 0 to 1"),
        ({"what": "nowhere"}, "nowhere: nothing to look through; give a dataset's name"),
        ({"what": "coco/annotations/test.json"}, "give --images"),
        ({"what": "coco/annotations/test.json", "images": "no"}, "no: no such folder"),
        ({"predictions": "no.json"}, "no.json: no such results file"),
    ],
)
def test_what_cannot_be_opened_says_why(dataset, options, words):
    paths = {"what": "coco"} | options
    for key in ("what", "images", "predictions"):
        if key in paths:
            paths[key] = dataset / paths[key]
    with pytest.raises(DescryError, match=words.replace(".", r"\.")):
        open_splits(paths.pop("what"), **paths)


def test_the_operating_point_stands_beside_the_predictions(dataset):
    point = {"threshold": 0.75, "source": "validation", "by_class": {"clump": 0.1}, "sources": {}}
    (dataset / "details.json").write_text(json.dumps({"operating_point": point}))
    splits = open_splits(dataset / "coco", predictions=dataset / "found.json")
    scores = Collection(splits).boxes.score
    assert sorted(scores[np.isfinite(scores)].tolist()) == [0.2, 0.7, 0.8, 0.9]


def test_a_model_looks_at_the_split_now(dataset, tmp_path):
    """``--checkpoint``: the boxes are the model's, and are judged."""
    tiny_model().save(tmp_path / "model.safetensors")
    options = BrowseOptions(
        split="test",
        checkpoint=tmp_path / "model.safetensors",
        threshold=0.0,
        review=tmp_path / "review.csv",
    )
    params = load_params(ROOT / "params.yaml", ["machine.device=cpu", "machine.workers=0"])
    with browse(params, str(dataset / "coco"), options) as server:
        looked = server.session.collection
    found = looked.boxes.score[np.isfinite(looked.boxes.score)]
    assert looked.compared and len(looked.images) == 3 and len(found) > 3
    kinds = {BOX_KINDS[kind] for kind in looked.boxes.kind.tolist()}
    assert kinds & {"background", "class", "localisation", "both", "duplicate", "right"}


def test_a_folder_of_predictions_shows_frames_of_dicom(dataset):
    pixels = np.zeros((2, 6, 8), dtype=np.uint8)
    pixels[1] = 200
    (dataset / "scans").mkdir()
    write(dataset / "scans/a.dcm", pixels, 2)
    (dataset / "out").mkdir()
    image = {"id": 1, "file_name": "a.dcm", "frame": 2, "width": 8, "height": 6}
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.4}
    content = {"images": [image], "annotations": [row], "categories": CATEGORIES}
    (dataset / "out/detections.coco.json").write_text(json.dumps(content))
    collection = Collection(open_splits(dataset / "out", images=dataset / "scans"))
    assert shown(collection, 0) == [("detection", 0, 0)] and not collection.compared
    pixels = read_pixels(collection.images[0], Intensity())
    assert pixels.shape == (6, 8) and (pixels == 200).all()


def test_marks_are_kept_in_a_csv(tmp_path):
    path = tmp_path / "review.csv"
    review, box = (
        Review(path),
        Target("test", "a.png", "11", "cell", "1.00", "2.00", "3.00", "4.00"),
    )
    review.mark(Target("test", "b.png"), "look again", "two\nlines")
    review.mark(box, "wrong box", "")
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        list(COLUMNS),
        ["test", "a.png", "11", "cell", "1.00", "2.00", "3.00", "4.00", "", "wrong box", ""],
        ["test", "b.png", "", "", "", "", "", "", "", "look again", "two lines"],
    ]
    again = Review(path)
    assert again.marks == review.marks
    again.mark(box, "", "")
    assert list(Review(path).marks) == [Target("test", "b.png")]
    with pytest.raises(DescryError, match="verdict='odd'"):
        again.mark(box, "odd", "")


def test_another_csv_is_not_overwritten(tmp_path):
    path = tmp_path / "detections.csv"
    path.write_text("path,score\na,0.5\n")
    with pytest.raises(DescryError, match="not a list of marks"):
        Review(path)


@pytest.fixture
def server(dataset, collection):
    session = Session(collection, Review(dataset / "review.csv"), Intensity(), "cells", ("flip",))
    with BrowseServer(session) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, body=None, **headers):
    """Status, headers and body of an answer to someone who has the token, unless `headers` say."""
    host = f"127.0.0.1:{server.server_port}"
    usual = {"Host": host, "Cookie": f"{server.cookie}={server.token}", "Origin": f"http://{host}"}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    given = {k: v for k, v in (usual | headers).items() if v is not None}
    connection.request("POST" if body is not None else "GET", path, body, given)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def test_the_token_opens_the_page_and_becomes_a_cookie(server):
    assert server.server_address[0] == "127.0.0.1"
    status, headers, _ = ask(server, f"/?token={server.token}", Cookie=None)
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    status, headers, page = ask(server, "/", Cookie=cookie.split(";")[0])
    assert status == 200 and b"<h1>cells</h1>" in page and server.token.encode() not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/", None, {"Cookie": None}, 403),
        ("/?token=", None, {"Cookie": None}, 403),
        ("/?token=%ff", None, {"Cookie": None}, 403),
        ("/images", None, {"Cookie": "descry-1=x"}, 403),
        ("/picture?i=0", None, {"Cookie": "=;;\x7f"}, 403),
        ("/browse.js", None, {"Cookie": None}, 403),
        ("/images", None, {"Host": "evil.example"}, 421),
        ("/images", None, {"Host": "127.0.0.1"}, 421),
        ("/mark", "{}", {"Origin": None}, 403),
        ("/mark", "{}", {"Origin": "http://evil.example"}, 403),
        ("/mark", "{}", {"Origin": "null"}, 403),
        ("/mark", "{}", {"Cookie": None}, 403),
        ("/mark", "[]", {}, 400),
        ("/mark", "[" * 50_000, {}, 400),
        ("/mark", "x" * 70_000, {}, 400),
        ("/images", "{}", {}, 400),
        ("/mark", '{"index": 9, "verdict": "fine"}', {}, 400),
        ("/mark", '{"index": 1, "box": 0, "verdict": "fine"}', {}, 400),  # of another image
        ("/mark", '{"index": 1, "verdict": ["fine"]}', {}, 400),
        ("/../../etc/passwd", None, {}, 404),
        ("/picture?i=99", None, {}, 400),
        ("/picture?i=x", None, {}, 400),
        ("/images?order=odd", None, {}, 400),
        ("/images?low=nothing", None, {}, 400),
        ("/images?label=dog", None, {}, 400),
        ("/augmented?i=0&recipe=odd", None, {}, 400),
    ],
)
def test_what_is_refused(server, dataset, path, body, headers, status):
    answered, _, content = ask(server, path, body, **headers)
    assert answered == status and json.loads(content)["error"]
    assert not (dataset / "review.csv").exists()


def test_pictures_and_marks_over_http(server, dataset):
    _, _, content = ask(server, "/images?split=test&start=1&count=1")
    answer = json.loads(content)
    assert answer["total"] == 3 and [image["name"] for image in answer["images"]] == ["2.png"]
    row = answer["images"][0]["boxes"][0]["row"]
    status, _, jpeg = ask(server, "/picture?i=2&side=50")
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert status == 200 and picture.size == (50, 40)
    mark = json.dumps({"index": 2, "box": row, "verdict": "wrong box", "note": "=1+1"})
    status, _, content = ask(server, "/mark", mark)
    assert status == 200
    assert json.loads(content)["boxes"][0]["mark"] == ["wrong box", "=1+1"]
    marked = json.loads(ask(server, "/images?marked=1")[2])
    assert [image["name"] for image in marked["images"]] == ["2.png"]
    assert "test,2.png,13,cell,40.00,40.00,40.00,40.00,,wrong box" in (
        dataset / "review.csv"
    ).read_text().replace("'", "")


def test_a_picture_that_cannot_be_read_costs_that_picture_only(server, dataset):
    (dataset / "coco/images/1.png").write_bytes(b"no picture")
    status, _, content = ask(server, "/picture?i=1")
    assert status == 400 and "cannot be decoded" in json.loads(content)["error"]
    (dataset / "coco/images/1.png").unlink()
    assert "cannot be opened" in json.loads(ask(server, "/picture?i=1")[2])["error"]
    assert ask(server, "/picture?i=2")[0] == 200


def test_augmentation_moves_boxes_with_the_picture(server):
    seen = set()
    for draw in range(12):
        answer = json.loads(ask(server, f"/augmented?i=0&draw={draw}")[2])
        assert (answer["width"], answer["height"], answer["lost"]) == (100, 80, 0)
        seen.add(tuple(answer["boxes"][0]["box"]))
    assert seen == {(0, 0, 50, 80), (50, 0, 50, 80)}
