"""DICOMDIR, the table of contents of a DICOM medium (PS3.3 F, PS3.10 8)."""

from pathlib import Path

import pydicom
from pydicom.uid import MediaStorageDirectoryStorage

from pipeline.dicom.errors import quiet
from pipeline.errors import DescryError


def listed_files(path: Path) -> list[str] | None:
    """Files that a DICOMDIR refers to.

    Parameters
    ----------
    path : Path
        A file of any kind.

    Returns
    -------
    list of str or None
        Paths relative to the DICOMDIR's folder, in its order, whether they exist or not; None
        where `path` is no DICOMDIR.

    Raises
    ------
    DescryError
        When it is a damaged DICOMDIR, lists no file, or lists one outside of its folder.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
            if dataset.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:
                return None
            files = _referenced(dataset)
    except Exception as error:  # pydicom has no common base for what broken files raise
        if path.name.upper() != "DICOMDIR":
            return None  # an ordinary file; its reader says what is wrong
        raise DescryError(f"{path}: damaged DICOMDIR; give its folder instead") from error
    if not files:
        raise DescryError(f"{path}: lists no files; give its folder instead")
    for name in files:
        if not (path.parent / name).resolve().is_relative_to(path.parent.resolve()):
            raise DescryError(f"{path}: lists a file outside of its folder; give a folder instead")
    return files


def _referenced(dataset: pydicom.Dataset) -> list[str]:
    """Referenced File ID of every record that has one: a name in parts (PS3.3 F.3.2.2)."""
    names = []
    for record in dataset.get("DirectoryRecordSequence", []):
        parts = record.get("ReferencedFileID")
        if parts:
            names.append("/".join([parts] if isinstance(parts, str) else parts))
    return names
