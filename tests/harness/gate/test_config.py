"""A file of requirements is taken as it says, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.gate.config import read_config
from udacisense.errors import InputError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[accuracy", "no valid TOML"),
        ("[acuracy]\nx = 1", r"no section \[acuracy\]"),
        ("[accuracy]\nmax_drop = 1.0", "no key 'max_drop'"),
        ('[accuracy]\nmax_drop_points = "five"', r"accuracy\.max_drop_points: "),
        ("accuracy = 3", "accuracy is a section"),
        ("[[variant]]\nsize = {}", "needs a match"),
        ('[[variant]]\nmatch = "*"\nspeed = { max_ms = 1.0 }', "no key 'max_ms'"),
        ('[[variant]]\nmatch = "*"\nspeed = { max_median_ms = "x" }', "max_median_ms"),
        ('[consistency]\nrequired = "ptl"', r"consistency\.required"),
    ],
)
def test_a_faulty_requirements_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_requirements_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml cannot be read: no such file or directory; give one"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read: is a directory; give one"):
        read_config(tmp_path)


def test_a_requirements_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("[accuracy]", encoding="utf-16")
    with pytest.raises(InputError, match=r"gate\.toml is no TOML: it is not in UTF-8"):
        read_config(tmp_path / "gate.toml")
