"""What a worker's end costs, and how many bytes of pictures a run holds."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from predict_factory import BrightSpots, rows_of, spot

from pipeline.data import images
from pipeline.data.geometry import unscaled
from pipeline.data.intensity import Intensity
from pipeline.predict import decode
from pipeline.predict.batches import Batches, Budget
from pipeline.predict.decode import Reader, Reduction, confine, ended
from pipeline.predict.options import Options
from pipeline.predict.records import Ended, FileResult, FrameResult, Opened, Picture
from pipeline.predict.run import predict_folder
from pipeline.work.pool import Crashed, ProcessPool


class Mistaken(Reader):
    """Does what the name of the file says."""

    def _read(self, path, headers_only):
        yield Opened()
        if path == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if path == "raise":
            raise ValueError("DOE^JOHN")
        if path == "noise":
            os.write(2, b"DOE^JOHN")
        if path == "big":
            np.ones(2**40, np.uint8)
        yield Ended("processed")


def test_mistakes_are_reported_without_their_words(tmp_path, capfd):
    read, names = Mistaken(tmp_path, Intensity()), ["raise", "noise", "big", "crash", "a"]
    with ProcessPool(read, 1, prepare=confine) as pool:
        jobs = enumerate((name, False) for name in names)
        said = [(names[n], ended(m)) for n, m in pool.run(jobs, ordered=True) if ended(m)]
    found = dict(said)
    assert list(found) == names
    assert (found["raise"].kind, found["raise"].step) == ("internal error", "decode")
    assert found["raise"].message.startswith("ValueError at test_predict_workers.py:")
    assert "MemoryError" in found["big"].message
    assert found["crash"] == Ended("failed", "decode", "the decoder crashed", "SIGSEGV")
    assert found["noise"].status == found["a"].status == "processed"
    assert "DOE" not in "".join(capfd.readouterr())


def test_a_decoder_that_hangs_is_told_from_one_that_crashed():
    hangs = Crashed("no answer for 3 seconds", hung=True)
    assert ended(hangs) == Ended("failed", "decode", "the decoder hangs", hangs.how)
    assert ended(Opened()) is None


def picture(size):
    pixels = np.zeros((1, size), np.uint8)
    return Picture(pixels, unscaled(pixels), pixels)


def test_pictures_are_held_up_to_a_number_of_bytes_and_one_may_always_be():
    budget, most, go = Budget(100), [], threading.Event()

    def detect(images):
        go.wait(20)
        most.append(budget.held)
        return BrightSpots().detect(images)

    with ThreadPoolExecutor(2) as threads:
        batches = Batches(detect, 4, {1: 0.5}, lambda held, _: held.drop(), threads, budget)
        for size in (40, 40):
            batches.add(picture(size), FrameResult(0, size, 1), None)
        assert budget.held == 80 and not most  # a batch is not full, and there is room
        threading.Timer(0.2, go.set).start()
        for size in (300, 40, 20, 40, 20):
            batches.add(picture(size), FrameResult(0, size, 1), None)
        batches.flush()
        batches.finish()
    assert budget.held == 0
    assert most[:2] == [80, 300] and all(held <= 100 for held in most[2:])


def test_a_model_that_is_interrupted_lets_go_of_its_pictures():
    def detect(images):
        raise KeyboardInterrupt

    budget = Budget(100)
    with ThreadPoolExecutor(1) as threads:
        batches = Batches(detect, 1, {}, lambda held, _: None, threads, budget)
        batches.add(picture(90), FrameResult(0, 90, 1), FileResult("a", Opened(), None))
        batches.add(picture(90), FrameResult(0, 90, 1), FileResult("b", Opened(), None))
        with pytest.raises(KeyboardInterrupt):
            batches.finish()


def test_a_large_picture_is_drawn_smaller_and_its_boxes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "DRAWN_PIXELS", 100 * 80)
    pixels = spot(size=(200, 400), at=(80, 40, 40, 60))
    seen, _, drawn = Reduction(whole=True)(pixels)
    assert seen is pixels and drawn.shape == (63, 126)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    predict_folder(tmp_path / "in", tmp_path / "out", BrightSpots(image_size=400),
                   options=Options(workers=0))  # fmt: skip
    (row,) = rows_of(tmp_path / "out" / "detections.csv")
    assert [float(row[key]) for key in ("x_px", "y_px", "width_px", "height_px")] == [
        80, 40, 40, 60,
    ]  # fmt: skip
    with Image.open(tmp_path / "out" / row["overlay"]) as overlay:
        assert overlay.height < 100
        edge = overlay.getpixel((25, 28))  # 80 * 126 / 400 from the left: the box's left edge
        assert edge == (230, 159, 0)


def test_a_picture_of_too_many_pixels_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 3 * 10**6)
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((2000, 2000), np.uint8)).save(tmp_path / "in" / "a.png")
    Image.fromarray(spot()).save(tmp_path / "in" / "b.png")
    predict_folder(tmp_path / "in", tmp_path / "out", BrightSpots(), options=Options(workers=0))
    assert rows_of(tmp_path / "out" / "failures.csv") == [
        {"path": "a.png", "step": "decode", "kind": "corrupt image",
         "message": "more than 3 million pixels"},
    ]  # fmt: skip
