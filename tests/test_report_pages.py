"""The page of a run, the index and the comparison, from hand-made folders."""

import hashlib
import html
import json
import re
from base64 import b64encode

import pytest
from run_factory import make_dataset, make_run, write

from pipeline.errors import DescryError
from pipeline.report.index import COLUMNS, write_table
from pipeline.report.provenance import prose
from pipeline.report.run import Run
from pipeline.report.words import figure, large
from pipeline.report.write import compare_folders, labels_of, write_page, write_report

STAND_IN = "Stand-in: these are other cells."


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A run of rsna with figures, and one of nih without any ground truth; with their report."""
    folder = tmp_path_factory.mktemp("project")
    make_run(folder / "runs", "rsna")
    none = dict.fromkeys(("AP", "AP50", "AP75", "AR100", "image_auc", "sensitivity_at_1fp"))
    make_run(folder / "runs", "nih", figures=none)
    make_dataset(folder / "datasets", "rsna", notes=["a/b.json: SYNTHETIC images.", STAND_IN])
    make_dataset(folder / "datasets", "nih")
    report(folder, folder / "report")
    return folder


def report(folder, out, only=""):
    names = ["nih", "cod10k", "rsna"]
    return write_report(folder / "runs", folder / "datasets", names, out, only=only, sample=True)


@pytest.fixture(scope="module")
def rsna(project):
    return (project / "report/datasets/rsna.html").read_text()


def plain(text):
    """Without scripts and tags, and with single spaces."""
    text = re.sub("<script>.*?</script>", " ", text, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", " ", text).split())


def test_the_page_shows_figures_intervals_and_counts(rsna):
    text = plain(rsna)
    assert "AP 0.250 0.100 to 0.600; mean over IoU 0.50 to 0.95" in text
    assert "5 objects in 8 images" in text and "1,000 bootstrap resamples of 6 patients" in text
    assert "small 0 n/a n/a" in text and "medium 2 0.200 0.400" in text
    assert "boxes with a score from 0.310" in text and "false positives 6" in text
    assert "localisation: right class, box too far off 2 1 0.050" in text
    assert "view: AP 3 1 n/a n/a 0.000 1.000" in text
    assert "12 epochs over 20 images, from random weights, seed 0." in text
    assert "images 37 36 1 unreadable (1)" in text
    assert "ACP of depth 2 and CAT of 16 concepts" in text
    assert "nan" not in text and "None" not in text and "-1 " not in text


def test_what_has_no_ground_truth_is_na_beside_its_count(project):
    text = plain((project / "report/datasets/nih.html").read_text())
    assert "AP n/a mean over IoU 0.50 to 0.95; 5 objects" in text
    assert (
        "AUC n/a telling images with objects from those without; 5 images with objects, 3" in text
    )


def test_stand_ins_and_samples_are_named_first(rsna):
    head = plain(rsna)[: plain(rsna).index("Result AP")]
    assert "SYNTHETIC images." in head and STAND_IN in head and "Sample data" in head


@pytest.mark.parametrize(
    ("ap", "said"), [("0.0", True), ("0.009", True), ("0.01", False), ("", False)]
)
def test_a_class_that_is_not_found_is_pointed_at(tmp_path, ap, said):
    row = f"platelets,38,{ap},0.0,0.0,0.0,,,\nrare,0,,,,,,,\n"
    table = make_run(tmp_path) / "rsna/evaluate/per_class.csv"
    table.write_text("class,objects,AP,AP50,AP75,AR100,sensitivity,precision,f1\n" + row)
    write_page(Run.read("rsna", tmp_path, tmp_path), tmp_path / "p.html")
    page = plain((tmp_path / "p.html").read_text())
    assert ("over 38 test objects. The model does not find this class." in page) is said
    assert "rare: AP" not in page


def test_full_data_is_not_called_a_sample(project, tmp_path):
    run = Run.read("nih", project / "runs", project / "datasets")
    write_page(run, tmp_path / "p.html")
    assert "ample data" not in (tmp_path / "p.html").read_text()


def test_the_page_is_self_contained_and_escaped(rsna):
    assert "thing &lt;b&gt;" in rsna and "thing <b>" not in rsna
    (script,) = re.findall("<script>(.*?)</script>", rsna, flags=re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(rsna)  # the viewer's, and no other
    rsna = rsna.replace(script, "", 1).replace("<script></script>", "", 1)
    assert not re.search(r"<(script|link rel=\"stylesheet|iframe)", rsna)
    sources = re.findall(r'(?:src|xlink:href|url)[=(]"?([^")]*)', rsna)
    assert sources and all(source.startswith(("data:image/jpeg", "#")) for source in sources)


def test_the_card_keeps_words_and_web_links_only():
    text = prose("# Title\n\n[file](a.md), [web](https://example.org), <i>raw</i> ![x](y.png)\n")
    assert "<h3>Title</h3>" in text and "a.md" not in text and "file, <a href=" in text
    assert "<i>" not in text and "<img" not in text


def test_index_and_table_list_what_was_evaluated(project):
    out = project / "report"
    assert "| rsna" in (out / "table.md").read_text()
    text = (out / "index.html").read_text()
    links = set(re.findall(r'href="([^"#][^"]*)"', text)) - {"data:,"}
    assert links == {"index.html", "datasets/rsna.html", "datasets/nih.html"}
    assert all((out / link).is_file() for link in links)
    assert "rsna synthetic, stand-in, sample 8 5 0.250" in plain(text)
    assert f"rsna: {STAND_IN}" in plain(text)


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


def test_one_page_or_the_index_alone_with_the_same_bytes(project, tmp_path):
    def written(only):
        report(project, tmp_path / only, only)
        return {p.relative_to(tmp_path / only): p for p in (tmp_path / only).rglob("*.*")}

    page, index = written("rsna"), written("index")
    assert {path.as_posix() for path in page} == {"datasets/rsna.html"}
    assert {path.as_posix() for path in index} == {"index.html", "table.md", "table.csv"}
    for name, path in (page | index).items():
        assert path.read_bytes() == (project / "report" / name).read_bytes()
    with pytest.raises(DescryError, match="--only sun: must be index or one of nih, cod10k, rsna"):
        report(project, tmp_path / "sun", "sun")


def test_a_run_that_is_not_there_says_what_to_do(tmp_path):
    details = make_run(tmp_path, "rsna") / "rsna/evaluate/details.json"
    details.unlink()
    with pytest.raises(
        DescryError, match=r"details\.json: no such file; run `descry evaluate rsna`"
    ):
        Run.read("rsna", tmp_path, tmp_path)
    write(details, "{")
    with pytest.raises(DescryError, match="not valid JSON"):
        Run.read("rsna", tmp_path, tmp_path)


def test_folders_of_runs_are_compared_on_what_they_share(project, tmp_path):
    other = make_run(tmp_path / "other", "rsna", figures={"AP": 0.375}, seed=1)
    folders = [project / "runs", other]
    (written,) = compare_folders(folders, project / "datasets", ["nih", "rsna"], tmp_path)
    text = plain(written.read_text())
    assert "runs 0.250 0.500" in text and "other 0.375 0.500" in text
    assert "no paired comparison" in text and "seed 0 1" in text
    assert 'id="nih"' not in written.read_text()
    with pytest.raises(DescryError, match="no dataset was evaluated in two of these"):
        compare_folders([project / "runs", tmp_path], project, ["rsna"], tmp_path)


def test_labels_differ(tmp_path):
    assert labels_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert labels_of([tmp_path / "x/a", tmp_path / "y/a"]) == [
        (tmp_path / "x/a").as_posix(),
        (tmp_path / "y/a").as_posix(),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        ("", "n/a"),
        (float("nan"), "n/a"),
        (1234, "1,234"),
        ("1234", "1,234"),
        (0.12345, "0.123"),
        ("0.5", "0.500"),
        (True, "yes"),
        ("WBC", "WBC"),
    ],
)
def test_figures_as_readers_see_them(value, text):
    assert figure(value) == text


def test_large_numbers_have_three_digits():
    assert [large(n) for n in (950, 1_640_000, 20_260_000_000)] == ["950", "1.64 M", "20.3 G"]
