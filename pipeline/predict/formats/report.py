"""report.html: what was found, best first, study by study, with an account of every file."""

from pipeline.predict.formats.format import Finished, Format


def _write(finished: Finished) -> None:
    from pipeline.predict.pages.write import write_pages  # templates, only now

    write_pages(finished)


FORMAT = Format("report", {}, grows=("report",), write=_write)
