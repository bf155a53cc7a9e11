"""JPEG Extended with 12 bits per sample (transfer syntax .51), decoded by GDCM.

pydicom's own GDCM plugin declines this precision, and no other permissively licensed codec has
it. GDCM does decode it when told the codestream's precision, which this plugin does. It refuses
truncated frames.
"""

from typing import TYPE_CHECKING

from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner

from pipeline.dicom.codestream import inspect

if TYPE_CHECKING:
    import gdcm

DECODER_DEPENDENCIES = {uid.JPEGExtended12Bit: ("gdcm>=3.0.24",)}


def is_available(syntax: str) -> bool:
    """Say whether this plugin decodes `syntax` (asked by pydicom)."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame for pydicom's plugin interface.

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
