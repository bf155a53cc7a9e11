"""Proof that this machine decodes a transfer syntax: a tiny file of it, read and compared.

Every codestream shows a ramp and is kept here as bytes, so that no encoder is needed.
"""

from base64 import b85decode
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Literal

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from pipeline.data.intensity import Intensity
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.decoders import NATIVE, PLUGINS
from pipeline.dicom.read.pixels import read_frame

SYNTAXES = (*NATIVE, *PLUGINS)
_LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
_TOLERANCE = 2  # grey levels by which two decoders of lossy JPEG may differ


@dataclass(frozen=True, slots=True)
class _Sample:
    side: int
    bits: int
    code: str = ""  # base 85; empty: not compressed


_BASELINE = _Sample(
    8,
    8,
    "|JeWA07C!)0RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40Ra"
    "L3zyJ#f00;mG0Ra&J|HJ?v000360RaI40RaF200000000330|W&I2M7rY3;)CbwGaRT0Rsa91Oo*H1Oxy80et}i0"
    "{{dO1ri}KK?W01VFw~{6f%L4p$H>FvB4Em(eNZQVse5B3Kka_85$)fCnzZ@G&MFiI5|2)L`6nNNJ&alR8>}2SXo+"
    "QWMyV&XlZJ5bai%jczJq*goTEOh>41lla!T~mzbHFqNAjxrl+W>s<N}RwYImoxw^u`#Kp$P$jQpm)6~`0*Vx(G;o"
    "{@u<>u$;>FV+F^Yr!h_xSnx|Jncu0RaF2KLF48ZT|oU+<(Wv{7_%r{{Wb8)Bc%P|Je",
)
_EXTENDED = _Sample(
    8,
    12,
    "|JeWA07C!)0RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40Ra"
    "L3!2k;k00;mG0Ra&J|HJ?k00961000000000000000015xZ02~ki00sj90000000000000003l1tbNmgfc|Jncu0"
    "RaF2KL9_=aZSd+tS`o^Z<|_=|Je",
)
_LOSSLESS = _Sample(
    8,
    12,
    "|JeV-01FTR2mlBH0TBTI!~hlm0RaI30000000000000002MQ4X+5iXv0RRC20LTak2nYxW6aavLfPjF2fj|fd2nY"
    "xW2owN-fPjF2fPp{=2nYxW2nZAafPjF2fPjHO2nYxW2nYxi0DypifPjF3|Je",
)
_LS = _Sample(
    8,
    12,
    "|JeWc01FHN2mlBH0TBTI+5iXv0RR910H5FA-(KI}KmZ^RAD<qc9f$w`5FH$x8=D%RpYuaABNGDi<NRD&SXNY0dVf"
    "j@$%#n_&kx}d2?O`fPS4xNZrwR@bpP1^",
)
_J2K = _Sample(
    32,
    8,
    "|4;u>04V?f0000W0000W00000000000000W0000W0000000000009R90sm3}3;+NC0RROA1ONg5TmTb5KuAbXNJv"
    "mfNKi;fP)JBn|6~9q00BdCWnpw>WFTUBAWv{*Zc0!^M<8}(a&u{KZXhx)H7+v$kN^q*00000NdN)=lgHEq2w%W_A"
    "kV-E0|Z~dIvjnVU=06%3q6Fu5ku+)03sIyf89}^p!vgqJ*G5U5ZqUwe1SlntSLbU|Je",
)
_HTJ2K = _Sample(
    32,
    8,
    "|4;u>04YEK0000W0000W00000000000000W0000W0000000000009R90sl|{2mk^A00092QUDA90ssL30t5s=0sm"
    "Y83Lr>OP*6xnNdII27XSfIaAj^vP)HzFWpW@eE;2SQGcNy-015yA0001m00IA#z%NPvU;VxPE}y&K>b3bS9{c}#d"
    ";48JcfZwZ^I1IR0{}rF2*W@SMPV2}5}+(#5}XDoLaLxLtP0nzwWpv#pg{m=0071S05P)xpbJ2v5JCtc{{4Ued-eb"
    "U?79G;7N~C9wr$(C|9D|1zhs{Ml6&?^?7sm2*#",
)
_RLE = _Sample(
    8,
    12,
    "0ssI2KmY&$U;qFB00000000000000000000000000000000000000000000000000000000000000000{Q&&|{Q~"
    "_1{RI65{RaI9{RsUD{R;gH{S5sL{SN&P2LM2TzyLsizy|<8fWQDifWQX;K!CsiK!Csp06>7i06>7i2LM2TzyLsiz"
    "y|<8fWQDifWQX;K!CsiK!Csp06>7i06>7i",
)
_SAMPLES: dict[str, _Sample] = {
    uid.JPEGBaseline8Bit: _BASELINE,
    uid.JPEGExtended12Bit: _EXTENDED,
    uid.JPEGLossless: _LOSSLESS,
    uid.JPEGLosslessSV1: _LOSSLESS,
    uid.JPEGLSLossless: _LS,
    uid.JPEGLSNearLossless: _LS,
    uid.JPEG2000Lossless: _J2K,
    uid.JPEG2000: _J2K,
    uid.HTJ2KLossless: _HTJ2K,
    uid.HTJ2KLosslessRPCL: _HTJ2K,
    uid.HTJ2K: _HTJ2K,
    uid.RLELossless: _RLE,
}


@dataclass(frozen=True, slots=True)
class _Held:
    """Bytes that open like a file."""

    content: bytes

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        return BytesIO(self.content)


def probe(syntax: str) -> str:
    """Decode a tiny picture; return what is wrong, or nothing."""
    sample = _SAMPLES.get(syntax, _Sample(8, 8))
    try:
        pixels = read_frame(_Held(sample_file(syntax)), Intensity(0, 100)).pixels
    except DicomError as error:
        return str(error)
    allowed = _TOLERANCE if syntax in _LOSSY else 0
    difference = np.abs(pixels.astype(int) - _expected(sample)).max()
    return f"wrong by {difference} of 255 grey levels" if difference > allowed else ""


def sample_file(syntax: str) -> bytes:
    """A DICOM file of a few hundred bytes in a transfer syntax of `SYNTAXES`."""
    sample = _SAMPLES.get(syntax, _Sample(8, 8))
    dataset = Dataset()
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "2.25.1"
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME2"
    dataset.Rows = dataset.Columns = sample.side
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = 8 if sample.bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = sample.bits, sample.bits - 1
    raw = _ramp(sample).tobytes()
    dataset.PixelData = encapsulate([b85decode(sample.code)]) if sample.code else raw
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = bool(sample.code)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    content = BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _ramp(sample: _Sample) -> np.ndarray:
    """0 to almost the highest value, row by row, 8 bits."""
    count = sample.side**2
    return (np.arange(count) * 256 // count).astype(np.uint8).reshape(sample.side, -1)


def _expected(sample: _Sample) -> np.ndarray:
    """What the picture looks like: deeper pixels are stretched to 0 to 255."""
    ramp = _ramp(sample)
    return ramp if sample.bits == 8 else np.floor(ramp * (255 / ramp.max()) + 0.5).astype(int)
