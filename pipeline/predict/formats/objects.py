"""From the results of a file to DICOM objects beside the tables; a module for each type.

An object that cannot be made costs itself only, and a line in warnings.csv.
"""

from pathlib import Path

import pipeline
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.header import read_header
from pipeline.dicom.write.maker import Findings, Maker, Region
from pipeline.dicom.write.source import CANNOT_REFER, SourceImage, describe, wanted_elements
from pipeline.predict.formats import DICOM
from pipeline.predict.formats.format import MARK, NOT_COPIED, Format, not_written
from pipeline.predict.plan import Plan
from pipeline.predict.records import FileResult
from pipeline.predict.sources import SourceError, located

_Warning = tuple[str, str]


class ObjectWriter:
    """Writes the objects of one file after the other.

    Parameters
    ----------
    plan : Plan
    folder : Path
        The growing output; objects go to the folder of their type.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        detector = plan.detector
        self.folder, self.root, self.wanted = folder, plan.root, plan.options.objects
        self.classes, self.pseudonyms = plan.classes, plan.pseudonyms
        self.intensity = detector.intensity
        self.maker = Maker(
            version=pipeline.__version__,
            sha256=detector.sha256,
            trained_on=detector.trained_on,
            thresholds=tuple((name, plan.thresholds[i]) for i, name in detector.categories),
            mark=MARK,
            content_date=self.wanted.content_date,
        )

    def write(self, number: int, path: str, result: FileResult) -> None:
        """Write what is wanted of a processed file; what could not be made becomes a warning.

        Parameters
        ----------
        number : int
            Of the file in the run, from 0; becomes part of the names.
        path : str
            Of the input, relative to the root of the plan.
        """
        troubles = list(self._write(f"{number + 1:06d}-{result.opened.instance}", path, result))
        result.opened = result.opened.warned(*troubles)

    def _write(self, stem: str, path: str, result: FileResult) -> list[_Warning]:
        try:
            source = self._source(path)
        except DicomError as error:
            plain = error.kind == "not DICOM"
            detail = "an ordinary image has no UIDs to refer to" if plain else error.detail
            return [(CANNOT_REFER, detail)]
        except (OSError, SourceError) as error:  # gone or changed since it was read
            return [(CANNOT_REFER, f"cannot be read again ({type(error).__name__})")]
        troubles = []
        if source.left_out:
            text = f"the header gives no exact value: {', '.join(source.left_out)}"
            troubles.append((NOT_COPIED, text))
        for kind in DICOM:
            if kind.name in self.wanted.kinds:
                trouble = self._attempt(kind, stem, source, result)
                troubles += [trouble] if trouble else []
        return troubles

    def _source(self, path: str) -> SourceImage:
        wanted = self.wanted
        also = wanted_elements(wanted.copy_patient, self.pseudonyms is not None)
        header = read_header(located(self.root, path), also)
        return describe(header, copy_patient=wanted.copy_patient, pseudonyms=self.pseudonyms)

    def _attempt(
        self, kind: Format, stem: str, source: SourceImage, result: FileResult
    ) -> _Warning | None:
        assert kind.write_objects is not None
        try:
            kind.write_objects(self, stem, source, result)
        except OSError:
            raise  # the disk is full or gone: that is no matter of this file
        except DicomError as error:
            return not_written(kind.name), error.detail
        except (TypeError, ValueError) as error:  # an unusual header meets a check of highdicom's
            return (
                not_written(kind.name),
                f"the header does not allow it ({type(error).__name__})",
            )
        return None

    def findings(self, result: FileResult) -> Findings:
        """What was found in a file, as DICOM objects say it."""
        return Findings(
            tuple(
                Region(
                    frame.frame,
                    (box[0], box[1], box[2], box[3]),
                    self.classes[frame.labels[i]],
                    frame.scores[i],
                    frame.masks[i] if frame.masks else "",
                )
                for frame in result.frames
                for i, box in enumerate(frame.boxes)
            )
        )
