"""The output formats of a prediction: a table, and a module for each.

Another format is a module with a `FORMAT`, its line here, and its option in `pipeline.cli.predict`.
What is listed, counted, swept after a stop and sent to an archive follows from the table.
"""

from pipeline.predict.formats import account, coco, csv, gsps, overlays, pixels, report, sc, seg, sr

FORMATS = (
    csv.FORMAT,
    coco.FORMAT,
    account.FORMAT,
    overlays.FORMAT,
    sr.FORMAT,
    gsps.FORMAT,
    sc.FORMAT,
    seg.FORMAT,
    pixels.FORMAT,
    report.FORMAT,
)
DICOM = tuple(one for one in FORMATS if one.write_objects is not None)  # `--to` sends these
GROWING = tuple(dict.fromkeys(folder for one in FORMATS for folder in one.grows))
