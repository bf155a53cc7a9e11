"""Softcopy Presentation States (PS3.3 A.33): boxes over an image as the model saw it.

A grey image gets a Grayscale state (A.33.1). Its grey-scale chain is the one that prediction
used, modality to presentation LUT, so that a viewer shows the very picture. A source that is
displayed inverted (MONOCHROME1, or Presentation LUT Shape INVERSE) gets the shape INVERSE:
photometric interpretation plays no part once a presentation state is applied (PS3.4 N.2).

All others get a Color state (A.33.2). PALETTE COLOR is among them: such an image is in colour by
itself and has no grey scale (PS3.4 N.2.2.1), while a Pseudo-Color state (A.33.3) colours the grey
scale of a grey image. The mandatory ICC profile is sRGB, which is how prediction and overlays
take the numbers. A profile of the source is not looked at: it may hold dates and serial numbers.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import VOILUT, ModalityLUTTransformation, PresentationLUTTransformation
from highdicom.content import ReferencedImageSequence
from highdicom.pr import (
    ColorSoftcopyPresentationState,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)
from numpy.typing import NDArray
from PIL import ImageCms
from pydicom.dataset import Dataset
from pydicom.valuerep import DS

from pipeline.data.intensity import Intensity
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.geometry import pixel_shape, spacing
from pipeline.dicom.read.lut import GreyScale, grey_scale, values_of_interest
from pipeline.dicom.write.maker import (
    Findings,
    Maker,
    Region,
    aspect_ratio,
    new_object,
    outline,
    silent,
    store,
)
from pipeline.dicom.write.source import CANNOT_REFER, SourceImage

Limits = Mapping[int, tuple[float, float] | None]
_LAYER = GraphicLayer("DESCRY", order=1, description="detections")
_TEXT_HEIGHT = 0.03  # of the image; text above a box


def write_presentation_state(
    path: Path,
    source: SourceImage,
    findings: Findings,
    maker: Maker,
    intensity: Intensity,
    limits: Limits,
) -> None:
    """Write a presentation state with a rectangle and a text for every box.

    Parameters
    ----------
    findings : Findings
        At least one region.
    intensity : Intensity
        The recipe by which the image was read.
    limits : mapping
        Frame (from 0) -> modality values shown as black and white, where the header does not
        say (see `pipeline.dicom.read.pixels.Frame`); not used for colour.

    Raises
    ------
    DicomError
        When the frames differ in what one state can say only once.
    """
    frames = findings.frames()
    with silent():
        shared = _arguments(source, findings, maker)
        if source.colour:
            state = _colour_state(shared)
        else:
            greys = {frame: grey_scale(source.header, frame, intensity) for frame in frames}
            state = _grey_state(source, greys, limits, shared)
        state.Laterality = ""
        _set_shape(state, source, frames[0])
        store(state, path, maker)


def _arguments(source: SourceImage, findings: Findings, maker: Maker) -> dict[str, Any]:
    """What all presentation states share; they have no Content Date."""
    shared = new_object(maker, source.reference, "gsps", source.number)
    del shared["content_date"], shared["content_time"]
    return shared | {
        "referenced_images": [source.reference],
        "content_label": "DESCRY",
        "content_description": maker.mark,
        "graphic_layers": [_LAYER],
        "graphic_annotations": [
            _annotation(source, findings, frame) for frame in findings.frames()
        ],
    }


def _colour_state(shared: dict[str, Any]) -> Dataset:
    state = ColorSoftcopyPresentationState(icc_profile=_srgb(), **shared)
    state.ColorSpace = "SRGB"
    return state


def _srgb() -> bytes:
    """An sRGB profile of the class of input devices (PS3.3 C.11.15.1.1), always the same bytes.

    Pillow's is of the class of displays, whose profiles have the same tags, and bears the time.
    """
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[12:16] = b"scnr"  # places in the header: ICC.1, 7.2
    profile[24:36] = struct.pack(">6H", 1900, 1, 1, 0, 0, 0)
    return bytes(profile)


def _grey_state(
    source: SourceImage, greys: Mapping[int, GreyScale], limits: Limits, shared: dict[str, Any]
) -> Dataset:
    first = next(iter(greys.values()))
    return GrayscaleSoftcopyPresentationState(
        modality_lut_transformation=_modality(list(greys.values())),
        voi_lut_transformations=_windows(source, greys, limits),
        presentation_lut_transformation=PresentationLUTTransformation(
            "INVERSE" if first.inverted else "IDENTITY"
        ),
        **shared,
    )


def _set_shape(state: Dataset, source: SourceImage, frame: int) -> None:
    """Give pixels that are not square their shape; highdicom makes all of them square."""
    height, width = pixel_shape(source.header, frame)
    if height == width:
        return
    (area,) = state.DisplayedAreaSelectionSequence
    if spacing(source.header, frame) is None:
        area.PresentationPixelAspectRatio = aspect_ratio(height, width)
        return
    area.PresentationPixelSpacing = [DS(length, auto_format=True) for length in (height, width)]
    del area.PresentationPixelAspectRatio


def _annotation(source: SourceImage, findings: Findings, frame: int) -> GraphicAnnotation:
    here = [region for region in findings.regions if region.frame == frame]
    rows, columns = source.reference.Rows, source.reference.Columns
    return GraphicAnnotation(
        referenced_images=[source.reference],
        referenced_frame_number=frame + 1 if source.multi_frame else None,
        graphic_layer=_LAYER,
        graphic_objects=[
            GraphicObject("POLYLINE", outline(region, rows, columns), "PIXEL") for region in here
        ],
        text_objects=[_text(region, rows, columns) for region in here],
    )


def _text(region: Region, rows: int, columns: int) -> TextObject:
    """Class and score above the box, or in its upper edge where there is no room above."""
    height = max(1.0, _TEXT_HEIGHT * rows)
    left, top = min(region.box[0], columns - 1.0), max(0.0, region.box[1] - height)
    return TextObject(
        f"{region.name} {region.score:.2f}",
        "PIXEL",
        bounding_box=(left, top, float(columns), min(top + height, float(rows))),
        text_justification="LEFT",
    )


def _modality(greys: Sequence[GreyScale]) -> ModalityLUTTransformation:
    """One rescale for all frames: the standard has no other (PS3.3 C.11.1)."""
    first = greys[0]
    if any((g.slope, g.intercept) != (first.slope, first.intercept) for g in greys):
        raise DicomError(CANNOT_REFER, "its frames differ in their rescale")
    return ModalityLUTTransformation(first.intercept, first.slope, "US")


def _windows(
    source: SourceImage, greys: Mapping[int, GreyScale], limits: Limits
) -> list[SoftcopyVOILUTTransformation]:
    """One for all frames, or one for each where they differ."""
    made = {frame: _window(grey, limits.get(frame)) for frame, grey in greys.items()}
    first = next(iter(made.values()))
    if all(other == first for other in made.values()):
        return [first]
    for frame, window in made.items():
        window.ReferencedImageSequence = ReferencedImageSequence(
            [source.reference], referenced_frame_number=frame + 1
        )
    return list(made.values())


def _window(grey: GreyScale, limits: tuple[float, float] | None) -> SoftcopyVOILUTTransformation:
    if grey.modality is not None:
        return _table(values_of_interest(grey, grey.modality.entries, limits), grey.modality.first)
    if grey.voi is not None:
        return _table(grey.voi.entries / (2**grey.voi.bits - 1), grey.voi.first)
    if grey.window is not None:
        centre, width, function = grey.window
    elif limits is not None:
        centre, width, function = _as_window(*limits)
    else:
        raise DicomError(CANNOT_REFER, "the displayed range is not known")
    return SoftcopyVOILUTTransformation(centre, width, voi_lut_function=function)


def _as_window(low: float, high: float) -> tuple[float, float, str]:
    """The window with function LINEAR that maps `low` to black and `high` to white.

    Its formula, ((x - (c - 0.5)) / (w - 1) + 0.5) (PS3.3 C.11.2.1.2.1), solved for c and w.
    """
    return (low + high) / 2 + 0.5, high - low + 1, "LINEAR"


def _table(unit: NDArray[np.float64], first: int) -> SoftcopyVOILUTTransformation:
    """A VOI LUT of 16 bits, the depth that presentation states have.

    A modality LUT of the source is part of it: it maps stored values, and so does this table.

    Parameters
    ----------
    unit : array (n,)
        Output, 0 to 1, for the inputs from `first` on.
    first : int
        May be negative.
    """
    item = VOILUT(0, np.rint(unit * 65535).astype(np.uint16))
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(unit) % 65536, first, 16])
    return SoftcopyVOILUTTransformation(voi_luts=[item])
