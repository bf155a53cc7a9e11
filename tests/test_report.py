"""The table of all datasets."""

import json

import pytest

from pipeline.errors import DescryError
from pipeline.report.table import COLUMNS, write_table


def metrics_of(**figures):
    return dict.fromkeys(COLUMNS) | {"images": 3, "objects": 0} | figures


def test_the_table_shows_what_there_is_and_na_where_nothing_could_be_counted(tmp_path):
    runs = tmp_path / "metrics"
    runs.mkdir()
    a = metrics_of(objects=7, AP=0.12345, AP50=1.0, AP75=0.0, AR1=0.5, AR10=0.25, AR100=0.75)
    (runs / "rsna.json").write_text(json.dumps({"rsna": a}))
    (runs / "nih.json").write_text(json.dumps({"nih": metrics_of()}))
    text = write_table(runs, ["nih", "cod10k", "rsna"], tmp_path / "report")
    assert text == (tmp_path / "report/table.md").read_text()
    assert text.splitlines() == [
        "| dataset | images | objects |    AP |  AP50 |  AP75 |   AR1 |  AR10 | AR100 |",
        "|---------|-------:|--------:|------:|------:|------:|------:|------:|------:|",
        "| nih     |      3 |       0 |   n/a |   n/a |   n/a |   n/a |   n/a |   n/a |",
        "| rsna    |      3 |       7 | 0.123 | 1.000 | 0.000 | 0.500 | 0.250 | 0.750 |",
    ]
    assert (tmp_path / "report/table.csv").read_text().splitlines()[2] == (
        "rsna,3,7,0.123,1.000,0.000,0.500,0.250,0.750"
    )


def test_nothing_evaluated_is_said(tmp_path):
    with pytest.raises(DescryError, match="dvc repro"):
        write_table(tmp_path, ["nih"], tmp_path / "report")
