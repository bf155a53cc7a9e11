"""Pictures inside a page, as data URIs of bounded size."""

import base64
import io
from pathlib import Path

from PIL import Image


def data_uri(source: Path | Image.Image, side: int, quality: int = 82) -> str:
    """A picture as a JPEG data URI.

    Parameters
    ----------
    source : Path or Image
    side : int
        Longest side in pixels; larger pictures are made smaller, none is enlarged.
    quality : int
        Of the JPEG, 1 to 95.
    """
    if isinstance(source, Path):
        with Image.open(source) as opened:
            return data_uri(opened.convert("RGB"), side, quality)
    image = source.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Full colour resolution: thin coloured boxes would fade otherwise.
    image.save(stream, "JPEG", quality=quality, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
