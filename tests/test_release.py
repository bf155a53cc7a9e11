"""What an installation brings: licences, the bill of materials, versions with their hashes."""

import re
from pathlib import Path

import pytest
import release

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", re.MULTILINE)


def test_nothing_of_a_strong_copyleft_is_brought_and_each_licence_is_known():
    rows = {row[0]: row for row in release.licences()}
    assert rows["albumentations"][1:3] == ("2.0.8", "MIT License")  # its follower is AGPL
    assert {"torch", "pynetdicom", "onnxruntime"} <= set(rows)
    assert {name for name in release.ACCEPTED if name in rows} == set(release.ACCEPTED)


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("MIT", False),
        ("AGPL-3.0-or-later", True),
        ("GNU Affero General Public License v3", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("GNU Lesser General Public License v2.1", False),
        ("LGPL-2.1-only", False),
    ],
)
def test_strong_copyleft_is_refused(licence, refused):
    assert release.is_refused(("new", "1", licence, "descry")) is refused


def test_the_bill_of_materials_lists_each_once_and_who_asked_for_it():
    rows = [("a", "1", "MIT", "descry"), ("b", "2", "ISC", "a")]
    made = release.bill_of_materials(rows)
    assert [part["purl"] for part in made["components"]] == ["pkg:pypi/a@1", "pkg:pypi/b@2"]
    assert made["dependencies"] == [
        {"ref": "descry", "dependsOn": ["pkg:pypi/a@1"]},
        {"ref": "pkg:pypi/a@1", "dependsOn": ["pkg:pypi/b@2"]},
    ]


def test_the_lock_file_has_the_versions_of_the_constraints_and_a_hash_for_each():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked, wanted = (
        {release.normal(name): version for name, version in PIN.findall(content)}
        for content in (text, (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    )
    assert {name: locked.get(name) for name in wanted} == wanted  # else: make lock
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    assert all("--hash=sha256:" in entry for entry in entries if PIN.match(entry))
    assert "http" not in re.sub(r"[a-z0-9.-]*http[a-z0-9-]*(==|$)|# +.*", "", text)
