"""One decoder per transfer syntax, chosen here and nowhere else.

pydicom tries whatever happens to be installed. Lossy JPEG decoders differ by a grey level, and
some return a picture for a damaged frame, so the choice is fixed and there is no second attempt:
a file gives the same pixels on every machine or none.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.pixels.decoders.base import Decoder, DecodeRunner

from pipeline.dicom import WRONG_HEADER
from pipeline.dicom.errors import DicomError, quiet, syntax_name
from pipeline.dicom.read.codestream import Codestream, inspect, rle_segments

if TYPE_CHECKING:
    import gdcm

_TWELVE_BIT = "descry-gdcm-12"
DECODER_DEPENDENCIES = {uid.JPEGExtended12Bit: ("gdcm>=3.0.24",)}  # asked for by pydicom
PLUGINS: dict[str, str] = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: _TWELVE_BIT,
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.RLELossless: "pylibjpeg",
}
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)


def decoder_for(syntax: uid.UID) -> Decoder:
    """Return pydicom's decoder of a transfer syntax.

    Raises
    ------
    DicomError
        "cannot decode" for syntaxes without a decoder (video, JPEG XL, private ones).
    """
    if syntax not in PLUGINS and syntax not in NATIVE:
        raise DicomError("cannot decode", f"no decoder for transfer syntax {syntax_name(syntax)}")
    decoder = get_decoder(syntax)
    if syntax == uid.JPEGExtended12Bit and _TWELVE_BIT not in decoder.available_plugins:
        decoder.add_plugin(_TWELVE_BIT, (__name__, "decode_frame"))
    return decoder


def decode_compressed(
    frame: bytes, syntax: uid.UID, options: dict[str, Any]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode one compressed frame.

    Parameters
    ----------
    frame : bytes
        The codestream, its fragments joined.
    options : dict
        Image pixel attributes as `pydicom.pixels` names them, for one frame.

    Returns
    -------
    pixels : array (H, W) or (H, W, 3)
        YBR is converted to RGB.
    notes : tuple of str
        Where codestream and header contradict each other; the codestream counts.

    Raises
    ------
    DicomError
        "cannot decode", naming the transfer syntax.
    """
    decoder = decoder_for(syntax)
    found = _checked(frame, syntax, options)
    colour, notes = _colour(found, options)
    extended = syntax == uid.JPEGExtended12Bit
    if found is not None and syntax in _JPEG and found.precision <= 8 < options["bits_allocated"]:
        options = {**options, "bits_allocated": 8, "bits_stored": 8}
        notes += (f"{WRONG_HEADER}codestream of 8 bits in an image of 16",)
    plugin = "pillow" if extended and options["bits_stored"] == 8 else PLUGINS[syntax]
    options = {**options, "decoding_plugin": plugin}
    if extended:
        # Lossy coding overshoots: masking unused bits would turn a value above white into black.
        options["correct_unused_bits"] = False
    try:
        with quiet():
            packed = encapsulate([frame], has_bot=False)
            pixels, _ = decoder.as_array(packed, index=0, raw=True, **options)
            if colour == "YBR":
                pixels = convert_color_space(pixels, "YBR_FULL", "RGB")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # codecs raise anything; Rust's panics are no Exception even
        raise DicomError("cannot decode", f"{syntax_name(syntax)}: {_first_line(error)}") from error
    return np.minimum(pixels, 2 ** options["bits_stored"] - 1) if extended else pixels, notes


def _colour(found: Codestream | None, options: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What the decoder's samples are, "RGB", "YBR" or (grey) nothing; and a note."""
    if options["samples_per_pixel"] != 3:
        return "", ()
    label = options["photometric_interpretation"]
    # Decoders turn YBR_ICT and YBR_RCT, the transforms of JPEG 2000, into RGB.
    said = "YBR" if label in ("YBR_FULL", "YBR_FULL_422") else "RGB"
    colour = (found.colour if found is not None else "") or said
    return colour, () if colour == said else (
        f"{WRONG_HEADER}colour is {colour} in the codestream",
    )


def _checked(frame: bytes, syntax: uid.UID, options: dict[str, Any]) -> Codestream | None:
    """Compare the codestream's own size with the header's before anything is allocated."""
    if syntax == uid.RLELossless:
        needed = options["samples_per_pixel"] * options["bits_allocated"] // 8
        if rle_segments(frame) != needed:
            raise DicomError("cannot decode", f"{syntax_name(syntax)}: the frame header is damaged")
        return None
    found = inspect(frame)
    if found is None:
        raise DicomError(
            "cannot decode", f"{syntax_name(syntax)}: no frame header in the codestream"
        )
    expected = (options["rows"], options["columns"], options["samples_per_pixel"])
    if (found.rows, found.columns, found.components) != expected:
        raise DicomError(
            "cannot decode",
            f"{syntax_name(syntax)}: the codestream holds {found.rows} rows, {found.columns} "
            f"columns and {found.components} samples, the header says {expected}",
        )
    return found


def _first_line(error: BaseException) -> str:
    """The codec's own words (they hold no header values), cut to one printable line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def is_available(syntax: str) -> bool:
    """Say whether this plugin decodes `syntax` (asked by pydicom)."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame of JPEG Extended with 12 bits, for pydicom's plugin interface.

    pydicom's own GDCM plugin declines this precision, and no other permissively licensed codec
    has it. GDCM does decode it when told the codestream's precision. It refuses truncated frames.

    Raises
    ------
    ValueError
        When the codestream is damaged or is not 12-bit grey.
    """
    found = inspect(source)
    if found is None or found.precision != 12 or found.components != 1:
        raise ValueError("JPEG Extended is decoded for one component of 8 or 12 bits")
    content = _image(source, runner.rows, runner.columns).GetBuffer()
    if content is None:
        raise ValueError("the codestream is damaged or truncated")
    runner.set_option("bits_allocated", 16)
    # GDCM hands bytes over as text with surrogates for what is not UTF-8.
    return bytes(content.encode("utf-8", "surrogateescape"))


def _image(source: bytes, rows: int, columns: int) -> "gdcm.Image":
    """A GDCM image of one 12-bit grey frame, not yet decoded."""
    import gdcm  # here: without it the other transfer syntaxes still work

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(source)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    syntax = gdcm.TransferSyntax.GetTSType(str(uid.JPEGExtended12Bit))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    return image
