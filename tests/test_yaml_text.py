"""params.yaml and -S with whatever a file or a shell may hold: a message and no traceback."""

import csv
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.atomic import write_csv
from pipeline.config import load_params
from pipeline.errors import DescryError
from pipeline.yaml_text import read_yaml

BOMB = "a: &a [x, x]\n" + "".join(
    f"{after}: &{after} [*{before}, *{before}]\n"
    for before, after in zip("abcdefghijklm", "bcdefghijklmn", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=[", "not a mapping"),
        ("train: [", "not valid YAML"),
        ("train: {lr: " + "9" * 5000 + "}", "a value cannot be read"),
        ("train: {seed: 2026-13-45}", "a value cannot be read"),
        ("a: " + "[" * 20000, "more than 20 levels of nesting"),
        ("{" * 20000, "more than 20 levels of nesting"),
        ("a: &a [*a]", "anchors and aliases"),
        (BOMB, "anchors and aliases"),
        ("train: {lr: 0.1}\ntrain: {lr: 0.2}", "the key 'train' is given twice"),
        ("train: {lr: 0.1, lr: 0.2}", "the key 'lr' is given twice"),
        ("train: {lr: .inf}", "train.lr = inf is not allowed"),
        ("train: {lr: .nan}", "train.lr = nan is not allowed"),
        ("train: {no: 1}", "the key False is not text"),
        ("? [a, b]\n: 1", "is not text"),
        ("a: !!python/object/apply:os.getpid []", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("datasets: ['\ud7ff', \"\\ud800\"]", "datasets"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_its_name(tmp_path, text, said):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DescryError) as refused:
        load_params(path)
    assert str(refused.value).startswith(str(path))
    assert said.replace("not a mapping", "must be a mapping") in str(refused.value)


def test_bytes_that_are_no_text_and_a_folder_in_its_place(tmp_path):
    (tmp_path / "a").write_bytes(b"train: {lr: \xff}")
    (tmp_path / "b").mkdir()
    for name, said in (("a", "not UTF-8 text \\(byte 12\\)"), ("b", "Is a directory")):
        with pytest.raises(DescryError, match=said):
            load_params(tmp_path / name)


@pytest.mark.parametrize(
    "change", ["train.lr=[", "train.lr=" + "9" * 5000, "train.seed=2026-13-45", "a=&a [*a]"]
)
def test_an_override_with_a_mistake_is_refused(tmp_path, change):
    with pytest.raises(DescryError, match=r"^-S (train|a)"):
        load_params(tmp_path / "none", [change])


@given(st.text(alphabet=st.sampled_from("ab:{}[]&*!|>-? \n'\"#%@`0.e~\\x\t"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text):
    try:
        read_yaml(text, "a.yaml")
    except DescryError as error:
        assert str(error).startswith("a.yaml: ")


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_parameters_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}.yaml"
    path.write_bytes(content)
    try:
        load_params(path)
    except DescryError as error:
        assert str(path) in str(error)


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    cells = ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\tx", "-1.5", "+2e-3", "a=b", -1.5, None, ""]
    write_csv(tmp_path / "t.csv", ["=head"], [cells])
    with (tmp_path / "t.csv").open(newline="") as stream:
        _, row = csv.reader(stream)
    assert row == [
        "'=1+1", "'+cmd|x", "'-2+3", "'@SUM(A1)", "'\tx", "-1.5", "+2e-3", "a=b", "-1.5", "", "",
    ]  # fmt: skip
