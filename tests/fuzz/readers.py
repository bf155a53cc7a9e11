"""Every reader of foreign bytes as one function, and small files that it reads."""

import json
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from dicom_factory import image_dataset, save
from pydicom import uid
from toy_source import opened

from pipeline.config import load_params
from pipeline.convert.datasets.brain_tumor.cheng_mat import load as load_mat
from pipeline.convert.records import Ledger, Unreadable
from pipeline.data.coco import load_coco
from pipeline.data.images import ImageError, read_image
from pipeline.data.intensity import Intensity
from pipeline.data.results import iterate_results
from pipeline.errors import DescryError
from pipeline.models.saved import SavedModel
from pipeline.predict.decode import Reader as Predicted
from pipeline.predict.records import Ended
from pipeline.predict.sources import find_files

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """A reader, what it may raise, and the smallest files that it is content with."""

    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    name: str = "file"
    refuses: tuple[type[Exception], ...] = (DescryError,)

    def attempt(self, folder: Path, content: bytes) -> None:
        """Read the bytes as a file in `folder`; what is none of `refuses` is raised."""
        path = folder / self.name
        path.write_bytes(content)
        with suppress(*self.refuses):
            self.read(path)


def _coco() -> list[bytes]:
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 20}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12.0,
           "iscrowd": 0}  # fmt: skip
    outline = {"segmentation": [[1, 1, 5, 1, 5, 5]]}
    counts = {"segmentation": {"counts": [3, 5, 792], "size": [20, 40]}, "iscrowd": 1}
    kinds = [box, box | outline, box | counts]
    names = [{"id": 1, "name": "cell", "supercategory": ""}]
    return [
        json.dumps({"images": [image], "categories": names, "annotations": [kind]}).encode()
        for kind in kinds
    ]


def _results() -> list[bytes]:
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    return [json.dumps([row, row]).encode(), b"[]"]


def _voc() -> list[bytes]:
    box = "<xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax>"
    plain = (
        "<annotation><filename>a.png</filename><size><width>40</width><height>20</height>"
        f"<depth>3</depth></size><object><name>cell</name><bndbox>{box}</bndbox></object>"
        "</annotation>"
    )
    bomb = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]>' + plain.replace("cell", "&d;")
    outside = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]>' + plain
    return [plain.encode(), bomb.encode(), outside.replace("cell", "&b;").encode()]


def _images() -> list[bytes]:
    made = []
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for kind, mode, options in (
        ("PNG", "L", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("JPEG", "RGB", {}),
        ("TIFF", "L", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("BMP", "RGB", {}),
        ("WEBP", "RGB", {}),
    ):  # fmt: skip
        stream = BytesIO()
        Image.fromarray(grey).convert(mode).save(stream, kind, **options)
        made.append(stream.getvalue())
    deep = BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 999).save(deep, "TIFF")
    return [*made, deep.getvalue(), _bomb()]


def _bomb() -> bytes:
    """A PNG of 20,000 x 20,000 in few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(999)))


def _dicom() -> list[bytes]:
    made = []
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8) * 50
    window = {"WindowCenter": 900, "WindowWidth": 800, "RescaleSlope": 2}
    for pixels, syntax in (
        (grey, uid.ImplicitVRLittleEndian), (grey, uid.RLELossless),
        (grey, uid.DeflatedExplicitVRLittleEndian), (grey.astype(np.uint8), uid.JPEGLSLossless),
    ):  # fmt: skip
        stream = BytesIO()
        bits = {"BitsStored": 12} if pixels.dtype == np.uint16 else {}
        save(image_dataset(pixels, **bits, **window), stream, syntax)
        made.append(stream.getvalue())
    return made


def _archives() -> list[bytes]:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", _images()[0])
        archive.writestr("../../escapes.png", _images()[0])
        archive.writestr("/rooted.dcm", _dicom()[0])
    return [stream.getvalue()]


def _mat() -> list[bytes]:
    import h5py

    stream = BytesIO()
    with h5py.File(stream, "w", userblock_size=512) as file:
        group = file.create_group("cjdata")
        group["label"] = np.array([[1.0]])
        group["PID"] = np.frombuffer(b"1\x000\x000\x00", np.uint16).reshape(-1, 1)
        group["image"] = np.arange(64, dtype=np.int16).reshape(8, 8)
        group["tumorBorder"] = np.array([[2.0, 2, 2, 5, 5, 5, 5, 2]]).T
        group["tumorMask"] = np.pad(np.ones((3, 3), np.uint8), ((2, 3), (2, 3)))
    content = bytearray(stream.getvalue())
    content[:19] = b"MATLAB 7.3 MAT-file"
    return [bytes(content)]


def _models() -> list[bytes]:
    from predict_factory import tiny_model

    with tempfile.TemporaryDirectory() as folder:
        tiny_model().save(Path(folder) / "model.safetensors")
        return [(Path(folder) / "model.safetensors").read_bytes()]


def predicted(path: Path) -> None:
    """What `descry predict` makes of a file and of an archive's members."""
    read = Predicted(path.parent, Intensity())
    for name in find_files(path, path.parent / "out"):
        for message in read((name, False)):
            if isinstance(message, Ended) and message.kind == "internal error":
                raise AssertionError(message.message)


def converted(path: Path) -> None:
    """What a conversion makes of an annotation file of a folder with one image."""
    raw = path.parents[1] if path.parent.name in ("Annotations", "labels") else path.parent
    for record in opened("spots", raw).scan(Ledger()):
        assert not Path(record.path).is_absolute()


def overridden(path: Path) -> None:
    """Bytes as params.yaml, and as a -S."""
    load_params(ROOT / "params.yaml", [path.read_bytes().decode("utf-8", "surrogateescape")])


def _table() -> list[bytes]:
    rows = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", "00000003_000.png,Mass,1,2,3,4"]
    return ["\n".join(rows).encode(), b"patientId,x,y,width,height,Target\na,,,,,0\nb,1,2,3,4,1\n"]


def table(path: Path) -> None:
    from pipeline.convert.formats.tables import find_columns, read_rows

    rows = read_rows(path)
    find_columns(next(rows), ("patientId", "x"), path)
    for _ in rows:
        pass


def _params() -> list[bytes]:
    return [(ROOT / "params.yaml").read_bytes()]


READERS = {
    "images": Reader(read_image, _images, refuses=(ImageError,)),
    "predict": Reader(predicted, lambda: _dicom() + _images()[:3], name="a.dcm"),
    "archives": Reader(predicted, _archives, name="a.zip"),
    "coco": Reader(load_coco, _coco),
    "foreign coco": Reader(converted, _coco, name="_annotations.coco.json"),
    "results": Reader(lambda path: list(iterate_results(path)), _results),
    "voc": Reader(converted, _voc, name="Annotations/a.xml"),
    "yolo": Reader(
        converted, lambda: [b"0 0.5 0.5 0.2 0.2\n", b"0 0.1 0.1 0.3 0.1 0.2 0.3\n"],
        name="labels/a.txt",
    ),
    "yolo names": Reader(
        converted, lambda: [b"names: [cell]\ntrain: images\n", b"names: {0: cell}\npath: .\n"],
        name="data.yaml",
    ),
    "tables": Reader(table, _table, refuses=(DescryError, StopIteration)),
    "mat": Reader(load_mat, _mat, refuses=(DescryError, Unreadable)),
    "params": Reader(load_params, _params),
    "overrides": Reader(
        overridden, lambda: [b"model.pool_layers=3", b"train.milestones=[0.5]", b"train.lr=.1"]
    ),
    "models": Reader(SavedModel.load, _models),
}  # fmt: skip


def room(name: str, folder: Path) -> Path:
    """A folder in which the reader finds what it needs beside the file."""
    path = folder / READERS[name].name
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = {"voc": "JPEGImages", "yolo": "images", "yolo names": "images", "foreign coco": "."}
    if name in beside:
        (folder / beside[name]).mkdir(exist_ok=True)
        Image.new("L", (40, 20), 9).save(folder / beside[name] / "a.png")
    if name == "yolo":
        (folder / "classes.txt").write_text("cell\n")
    if name == "yolo names":
        (folder / "labels").mkdir()
        (folder / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return folder


def corpus(name: str) -> Iterator[bytes]:
    """Seeds, and what once was a finding."""
    yield from READERS[name].seeds()
    for path in sorted((Path(__file__).parent / "corpus" / name.replace(" ", "_")).glob("*")):
        yield path.read_bytes()
