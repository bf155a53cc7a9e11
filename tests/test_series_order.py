import numpy as np
from dicom_factory import ROOT, write
from hypothesis import given
from hypothesis import strategies as st
from predict_factory import BrightSpots, rows_of, spot

from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder
from pipeline.predict.select import Place, in_order

AXIAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]


def slice_at(folder, name, position, number=None, series="3", orientation=AXIAL, **elements):
    if position is not None:
        elements |= {"ImagePositionPatient": position, "ImageOrientationPatient": orientation}
    if number is not None:
        elements["InstanceNumber"] = number
    write(folder / name, spot(), SeriesInstanceUID=ROOT + series, Modality="CT", **elements)


def read_order(folder, tmp_path, **options):
    options = Options(workers=0, **options)
    predict_folder(folder, tmp_path / "out", BrightSpots(), options=options)
    return [row["path"] for row in rows_of(options.output(tmp_path / "out") / "detections.csv")]


def test_slices_come_by_their_position_and_not_by_name_or_number(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    slice_at(folder, "b", [9, 9, 5.0], 1)
    slice_at(folder, "c", [9, 9, -2.5], 3)
    slice_at(folder, "d", [9, 9, 10.0], 2)
    slice_at(folder, "e", None, 8)  # no position: behind the others, by number
    slice_at(folder, "f", None, 7)
    write(folder / "a", spot(), SeriesInstanceUID=ROOT + "9")
    write(folder / "z", spot(), SeriesInstanceUID=ROOT + "8")
    assert read_order(folder, tmp_path) == ["a", "c", "b", "d", "f", "e", "z"]


def test_position_is_measured_along_the_normal(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    # The normal of [0, 1, 0] x [0, 0, -1] is [-1, 0, 0]: a greater x comes earlier.
    slice_at(folder, "a", [1, 50, 0], orientation=SAGITTAL)
    slice_at(folder, "b", [3, 20, 0], orientation=SAGITTAL)
    slice_at(folder, "c", [2, 90, 0], orientation=SAGITTAL)
    assert read_order(folder, tmp_path) == ["b", "c", "a"]


def test_a_series_stays_together_where_its_first_file_stands(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, series, z in (("a", "1", 4), ("b", "2", 2), ("c", "1", 3), ("d", "2", 1)):
        slice_at(folder, name, [0, 0, z], series=series)
    assert read_order(folder, tmp_path) == ["c", "a", "d", "b"]
    assert read_order(folder, tmp_path, num_shards=2, shard=1) == ["d", "b"]


def test_nonsense_in_the_header_does_not_matter(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    slice_at(folder, "a", [0, 0, 9], orientation=[1, 0, 0, 1, 0, 0])  # no plane
    slice_at(folder, "b", [0, 0, 1], orientation=[1, 0, 0])
    slice_at(folder, "c", [0, 0, "1e300"])
    assert read_order(folder, tmp_path) == ["a", "b", "c"]


def test_equal_positions_are_told_apart_by_number_then_by_path():
    places = [("a", 5.0, 2), ("b", 5.0, 1), ("c", 5.0, 1), ("d", None, None), ("e", 1.0, None)]
    given = [(path, Place("s", position, number)) for path, position, number in places]
    assert in_order(given) == ["e", "b", "c", "a", "d"]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-9, 9) | st.none()), max_size=20))
def test_every_path_stays(drawn):
    places = [
        (f"{i:02d}", Place(f"s{series}", position, i) if series else None)
        for i, (series, position) in enumerate(drawn)
    ]
    paths = in_order(places)
    assert sorted(paths) == [path for path, _ in places]
    of = dict(places)
    for series in ("s1", "s2", "s3"):
        inside = [of[path].position for path in paths if of[path] and of[path].series == series]
        known = [p for p in inside if p is not None]
        assert inside == sorted(known) + [None] * (len(inside) - len(known))
        assert np.all(
            np.diff([i for i, p in enumerate(paths) if of[p] and of[p].series == series]) == 1
        )
