"""What NIH and RSNA, the datasets of tables, keep alike: the folder that somebody points at."""

import re
from pathlib import Path

import pytest
from convert_factory import run, scan_tables

from pipeline.errors import DescryError

DATASETS = Path(__file__).parent.parent / "datasets"
#     the table that must be there, where the data are had, the other one
NEEDS = {
    "nih": ("BBox_List_2017.csv", r"nihcc\.app\.box\.com", "rsna"),
    "rsna": ("stage_2_train_labels.csv", r"kaggle\.com", "nih"),
}
both = pytest.mark.parametrize("name", NEEDS)


@both
def test_a_missing_an_empty_and_another_datasets_folder(name: str, tmp_path: Path) -> None:
    table, where, other = NEEDS[name]
    with pytest.raises(DescryError, match=rf"nowhere: no such folder.*({where})"):
        scan_tables(name, tmp_path / "nowhere")
    for folder in (tmp_path, DATASETS / other / "sample"):
        with pytest.raises(DescryError, match=re.escape(f"{table}: this file is missing")):
            scan_tables(name, folder)
    with pytest.raises(DescryError, match=f"looks like {other}, not like {name}"):
        run(name, DATASETS / other / "sample", tmp_path / "out")
