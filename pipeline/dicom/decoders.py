"""One decoder per transfer syntax, chosen here and nowhere else.

pydicom tries whatever happens to be installed. Lossy JPEG decoders differ by a grey level, and
some return a picture for a damaged frame, so the choice is fixed and there is no second attempt:
a file gives the same pixels on every machine or none.
"""

from typing import Any

import numpy as np
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder

from pipeline.dicom import extended12
from pipeline.dicom.codestream import inspect, rle_segments
from pipeline.dicom.errors import DicomError, quiet, syntax_name

_TWELVE_BIT = "descry-gdcm-12"
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
        decoder.add_plugin(_TWELVE_BIT, (extended12.__name__, "decode_frame"))
    return decoder


def decode_compressed(frame: bytes, syntax: uid.UID, options: dict[str, Any]) -> np.ndarray:
    """Decode one compressed frame.

    Parameters
    ----------
    frame : bytes
        The codestream, its fragments joined.
    options : dict
        Image pixel attributes as `pydicom.pixels` names them, for one frame.

    Returns
    -------
    array (H, W) or (H, W, 3)
        YBR is converted to RGB.

    Raises
    ------
    DicomError
        "cannot decode", naming the transfer syntax.
    """
    decoder = decoder_for(syntax)
    _check(frame, syntax, options)
    extended = syntax == uid.JPEGExtended12Bit
    plugin = "pillow" if extended and options["bits_stored"] == 8 else PLUGINS[syntax]
    options = {**options, "decoding_plugin": plugin}
    if extended:
        # Lossy coding overshoots: masking unused bits would turn a value above white into black.
        options["correct_unused_bits"] = False
    try:
        with quiet():
            pixels, _ = decoder.as_array(encapsulate([frame], has_bot=False), index=0, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # codecs raise anything; Rust's panics are no Exception even
        raise DicomError("cannot decode", f"{syntax_name(syntax)}: {_first_line(error)}") from error
    return np.minimum(pixels, 2 ** options["bits_stored"] - 1) if extended else pixels


def _check(frame: bytes, syntax: uid.UID, options: dict[str, Any]) -> None:
    """Compare the codestream's own size with the header's before anything is allocated."""
    if syntax == uid.RLELossless:
        needed = options["samples_per_pixel"] * options["bits_allocated"] // 8
        if rle_segments(frame) != needed:
            raise DicomError("cannot decode", f"{syntax_name(syntax)}: the frame header is damaged")
        return
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


def _first_line(error: BaseException) -> str:
    """The codec's own words (they hold no header values), cut to one printable line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
