import struct
import subprocess

import numpy as np
import pydicom
import pytest
from dicom_factory import lut, write
from object_factory import FOUND, MAKER, MARK, ROOT, errors_of, program, source
from PIL import Image
from predict_factory import BrightSpots, spot
from pydicom import uid
from pydicom.pixels import apply_icc_profile, apply_modality_lut

from pipeline.data.intensity import Intensity
from pipeline.dicom.pseudonym import Pseudonyms
from pipeline.dicom.read.lut import windowed
from pipeline.dicom.read.pixels import frames
from pipeline.dicom.write.gsps import write_presentation_state
from pipeline.dicom.write.maker import Findings, Region
from pipeline.predict.options import Objects, Options
from pipeline.predict.run import predict_folder

RAMP = np.arange(2000, dtype=np.uint16).reshape(40, 50)
KEY = b"a key of sixteen bytes or more"
MANY = uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage


def state_of(folder, pixels=None, frame_number=None, findings=FOUND, **elements):
    """The presentation state of an image, and the image as the model sees it."""
    image = source(folder / "image", pixels, frame_number, **elements)
    seen = list(frames(folder / "image", Intensity()))
    limits = {frame.index: frame.limits for frame in seen}
    path = folder / "state.dcm"
    write_presentation_state(path, image, findings, MAKER, Intensity(), limits)
    assert errors_of(path) == []
    return pydicom.dcmread(path), [frame.pixels for frame in seen]


def shown(state, image):
    """An image as the state displays it, by the steps of PS3.4 N.2, 0 to 255."""
    assert (state.RescaleType, "ModalityLUTSequence" in state) == ("US", False)
    values = apply_modality_lut(image, state).astype(np.float64)
    (window,) = state.SoftcopyVOILUTSequence
    function = window.get("VOILUTFunction", "LINEAR")
    grey = windowed(values, float(window.WindowCenter), float(window.WindowWidth), function)
    return 255 * (1 - grey if state.PresentationLUTShape == "INVERSE" else grey)


def test_boxes_and_texts_are_read_back(tmp_path):
    state, _ = state_of(tmp_path)
    (annotation,) = state.GraphicAnnotationSequence
    first, second = annotation.GraphicObjectSequence
    left, top, right, bottom = 10.25, 2.5, 40.75, 22.57
    corners = [left, top, right, top, right, bottom, left, bottom, left, top]
    np.testing.assert_allclose(first.GraphicData, corners, atol=1e-5)  # 32 bits
    assert second.GraphicData == [0, 0, 50, 0, 50, 40, 0, 40, 0, 0]
    for item in (first, second):
        assert (item.GraphicType, item.GraphicAnnotationUnits, item.NumberOfGraphicPoints) == (
            "POLYLINE", "PIXEL", 5,
        )  # fmt: skip
    texts = [text.UnformattedTextValue for text in annotation.TextObjectSequence]
    assert texts == ["Lung Opacity 0.97", "glioma 0.50"]
    (reference,) = annotation.ReferencedImageSequence
    assert reference.ReferencedSOPInstanceUID == ROOT + "1"
    assert "ReferencedFrameNumber" not in reference
    assert state.ReferencedSeriesSequence[0].SeriesInstanceUID == ROOT + "3"
    (area,) = state.DisplayedAreaSelectionSequence
    assert area.DisplayedAreaBottomRightHandCorner == [50, 40]


def test_what_the_state_is(tmp_path):
    state, _ = state_of(tmp_path)
    assert state.SOPClassUID == uid.GrayscaleSoftcopyPresentationStateStorage
    assert (state.SeriesDescription, state.ContentDescription) == (MARK, MARK)
    assert (state.StudyInstanceUID, state.PatientID, state.StudyDate) == (ROOT + "2", "", "")
    assert state.PresentationCreationDate == "19000101"
    first = (tmp_path / "state.dcm").read_bytes()
    state_of(tmp_path)
    assert (tmp_path / "state.dcm").read_bytes() == first


@pytest.mark.parametrize(
    ("elements", "spacing", "ratio"),
    [
        ({"PixelSpacing": [2, 2]}, None, [1, 1]),
        ({"PixelSpacing": [2, 1.5]}, [2, 1.5], None),
        ({"PixelAspectRatio": [4, 3]}, None, [4, 3]),
        ({"PixelAspectRatio": ["10", "5"]}, None, [2, 1]),
        ({"PixelAspectRatio": [0, 3]}, None, [1, 1]),
        ({"PixelSpacing": [2, 2], "PixelAspectRatio": [4, 3]}, None, [1, 1]),  # mm are more exact
    ],
)
def test_pixels_that_are_not_square_keep_their_shape(tmp_path, elements, spacing, ratio):
    (area,) = state_of(tmp_path, **elements)[0].DisplayedAreaSelectionSequence
    assert area.get("PresentationPixelSpacing") == spacing
    assert area.get("PresentationPixelAspectRatio") == ratio


@pytest.mark.parametrize("inverted", [False, True], ids=["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": [600, 9], "WindowWidth": [800, 9]},
        {"WindowCenter": 600, "WindowWidth": 800, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 600, "WindowWidth": 800, "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400},
        {},  # percentiles
        {"RescaleSlope": "0.5", "RescaleIntercept": -10},
    ],
    ids=["window", "exact", "sigmoid", "rescale", "percentiles", "percentiles after rescale"],
)
def test_the_state_displays_what_the_model_saw(tmp_path, elements, inverted):
    photometric = {"PhotometricInterpretation": "MONOCHROME1"} if inverted else {}
    state, (seen,) = state_of(tmp_path, RAMP, **elements, **photometric)
    assert state.PresentationLUTShape == ("INVERSE" if inverted else "IDENTITY")
    np.testing.assert_allclose(shown(state, RAMP), seen, atol=0.51)  # `seen` is rounded


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dcmtk_displays_what_the_model_saw(tmp_path, photometric):
    check, draw = program("dcmpschk", "dcmtk"), program("dcmp2pgm", "dcmtk")
    extra = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    _, (seen,) = state_of(tmp_path, RAMP, PhotometricInterpretation=photometric, **extra)
    said = subprocess.run([check, tmp_path / "state.dcm"], capture_output=True, text=True)
    assert "Test passed" in said.stdout + said.stderr
    files = ("-p", tmp_path / "state.dcm", tmp_path / "image", tmp_path / "drawn.pgm")
    subprocess.run([draw, *files], check=True, capture_output=True)
    with Image.open(tmp_path / "drawn.pgm") as drawn:
        found = np.asarray(drawn).astype(int)
    assert np.abs(found - seen).max() <= 1  # dcmtk cuts off, we round


def test_eight_bits_without_a_window_are_displayed_in_full(tmp_path):
    state, (seen,) = state_of(tmp_path)
    np.testing.assert_allclose(shown(state, spot()), seen, atol=1e-9)


def test_look_up_tables_are_kept(tmp_path):
    state, _ = state_of(tmp_path, RAMP, VOILUTSequence=lut([5, 10, 20, 4095], 300, 12))
    # A state has 16 bits: 4095 of 12 becomes 65535, 5 becomes 5 * 65535 / 4095 = 80.02.
    assert _table(state) == ([4, 300, 16], [80, 160, 320, 65535])


def test_a_long_table_that_begins_below_zero(tmp_path):
    below = {"RescaleSlope": 1, "RescaleIntercept": -100}
    table = lut([*range(40000)], -100, 16)
    state, _ = state_of(tmp_path, RAMP, VOILUTSequence=table, **below)
    (descriptor, entries) = _table(state)
    assert descriptor == [40000, -100, 16] and entries[:3] == [0, 1, 2]


def test_a_modality_table_becomes_part_of_the_window(tmp_path):
    extra = {"WindowCenter": 500, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    table = lut([0, 250, 500, 2000], 0, 12)
    state, (seen,) = state_of(tmp_path, np.minimum(RAMP, 3), ModalityLUTSequence=table, **extra)
    # Stored 0 .. 3 are 0, 250, 500, 2000, of which the window 0 .. 1000 makes 0, 1/4, 1/2, 1.
    assert _table(state) == ([4, 0, 16], [0, 16384, 32768, 65535])
    assert seen[0, :4].tolist() == [0, 64, 128, 255]
    assert (state.RescaleSlope, state.RescaleIntercept) == (1, 0)


def _table(state):
    (item,) = state.SoftcopyVOILUTSequence[0].VOILUTSequence
    return item.LUTDescriptor, np.frombuffer(item.LUTData, "<u2").tolist()


def test_frames_have_their_own_boxes_and_windows(tmp_path):
    stack = np.stack([RAMP, RAMP + 500, RAMP])
    findings = Findings(tuple(Region(i, (i, 2, 3, 4), "glioma", 0.75) for i in (1, 2)))
    state, _ = state_of(tmp_path, stack, 3, findings, SOPClassUID=MANY)
    frames_of = [
        item.ReferencedImageSequence[0].ReferencedFrameNumber
        for item in state.GraphicAnnotationSequence
    ]
    assert frames_of == [2, 3]
    windows = {
        item.ReferencedImageSequence[0].ReferencedFrameNumber: item.WindowCenter
        for item in state.SoftcopyVOILUTSequence
    }
    assert windows[2] == windows[3] + 500


def ybr_422(pixels):
    """Grey pixels as YBR_FULL_422: two values of Y, then a shared chroma of zero."""
    chroma = np.full((pixels.size // 2, 2), 128, np.uint8)
    return np.hstack([pixels.reshape(-1, 2), chroma]).tobytes()


COLOUR = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
PALETTE = {
    f"{colour}PaletteColorLookupTable{part}": value
    for colour in ("Red", "Green", "Blue")
    for part, value in (("Descriptor", [256, 0, 8]), ("Data", bytes(range(255, -1, -1))))
}
COLOURS = {
    "RGB": (COLOUR, {}),
    "YBR_FULL": (COLOUR, {}),
    "YBR_FULL_422": (COLOUR, {"PixelData": ybr_422(spot())}),
    "PALETTE COLOR": (spot(), PALETTE),
}


@pytest.mark.parametrize("photometric", COLOURS)
def test_every_kind_of_colour_gets_a_colour_state(tmp_path, photometric):
    pixels, extra = COLOURS[photometric]
    state, (seen,) = state_of(tmp_path, pixels, PhotometricInterpretation=photometric, **extra)
    assert state.SOPClassUID == uid.ColorSoftcopyPresentationStateStorage
    (reference,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert reference.ReferencedSOPInstanceUID == ROOT + "1"
    grey_chain = ("RescaleSlope", "SoftcopyVOILUTSequence", "PresentationLUTShape")
    assert not [keyword for keyword in grey_chain if keyword in state]
    # PS3.3 C.11.15.1.1: an input profile of RGB. It leaves the colours as the model saw them.
    assert (state.ICCProfile[12:20], state.ColorSpace) == (b"scnrRGB ", "SRGB")
    displayed = apply_icc_profile(seen, state, color_space="sRGB")
    assert np.abs(displayed.astype(int) - seen).max() <= 1
    first = (tmp_path / "state.dcm").read_bytes()
    state_of(tmp_path, pixels, PhotometricInterpretation=photometric, **extra)
    assert (tmp_path / "state.dcm").read_bytes() == first


def test_grey_and_colour_states_draw_the_same(tmp_path):
    grey, _ = state_of(tmp_path)
    colour, _ = state_of(tmp_path, COLOUR, PixelSpacing=[2, 1.5])
    drawn = ("GraphicAnnotationSequence", "GraphicLayerSequence", "SeriesInstanceUID")
    assert [grey[keyword] for keyword in drawn] == [colour[keyword] for keyword in drawn]
    assert colour.DisplayedAreaSelectionSequence[0].PresentationPixelSpacing == [2, 1.5]


def test_the_profile_does_not_tell_the_time(tmp_path):
    state, _ = state_of(tmp_path, COLOUR)
    assert struct.unpack(">6H", state.ICCProfile[24:36]) == (1900, 1, 1, 0, 0, 0)


def test_boxes_of_colour_frames_name_their_frame(tmp_path):
    findings = Findings((Region(2, (1, 2, 3, 4), "glioma", 0.75),))
    many = uid.MultiFrameTrueColorSecondaryCaptureImageStorage
    state, _ = state_of(tmp_path, np.stack([COLOUR] * 3), 3, findings, SOPClassUID=many)
    (annotation,) = state.GraphicAnnotationSequence
    assert annotation.ReferencedImageSequence[0].ReferencedFrameNumber == 3


def colour_folder(folder):
    """A grey picture, and the same one in true colour and with a palette."""
    folder.mkdir()
    named = {"PatientName": "Wintergreen^Ada", "PatientID": "QX4711"}
    inverse = {"PhotometricInterpretation": "PALETTE COLOR", **PALETTE}
    pictures = ((spot(), {}), (np.dstack([spot()] * 3), {}), (255 - spot(), inverse))
    for number, (pixels, extra) in enumerate(pictures):
        write(folder / f"{number}.dcm", pixels, SOPInstanceUID=f"{ROOT}9{number}", **named, **extra)
    return folder


@pytest.mark.parametrize(
    ("chosen", "patient"),
    [
        ({}, ("Anonymous", "")),
        ({"copy_patient": True}, ("Wintergreen^Ada", "QX4711")),
        ({"key": KEY}, ("Anonymous", Pseudonyms(KEY).text("patient", "QX4711"))),
    ],
    ids=["default", "copied", "pseudonyms"],
)
def test_a_run_writes_states_of_both_kinds_alike(tmp_path, chosen, patient):
    folder = colour_folder(tmp_path / "in")
    key = chosen.get("key")
    objects = Objects(kinds=("gsps",), copy_patient="copy_patient" in chosen)
    options = Options(workers=0, objects=objects, key=key)
    summary = predict_folder(folder, tmp_path / "out", BrightSpots(), options=options)
    assert summary.counts["dicom_objects"]["gsps"] == 3 and summary.counts["warnings"] == {}
    instances = [f"{ROOT}9{number}" for number in range(3)]
    if key:
        instances = [Pseudonyms(key).uid(instance) for instance in instances]
    states = {
        path.name: pydicom.dcmread(path) for path in sorted((tmp_path / "out/gsps").iterdir())
    }
    assert list(states) == [f"00000{n}-{i}.dcm" for n, i in enumerate(instances, 1)]
    colour, grey = (
        uid.ColorSoftcopyPresentationStateStorage,
        uid.GrayscaleSoftcopyPresentationStateStorage,
    )
    kinds = {}
    for state in states.values():
        (reference,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
        kinds[reference.ReferencedSOPInstanceUID] = state.SOPClassUID
        assert (state.PatientName, state.PatientID) == patient
    assert kinds == dict(zip(instances, (grey, colour, colour), strict=True))
