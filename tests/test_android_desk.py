"""The scripts that build and test the Android app stand outside of mypy's packages: what they import must be there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parent.parent / "android_demo"


@pytest.mark.parametrize("script", ["desk/toolchain.py", "desk/test.py", "desk/make_fixtures.py", "apk/build.py"])
def test_a_script_finds_what_it_imports(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DEMO / "desk"))
    spec = importlib.util.spec_from_file_location(f"android_{Path(script).stem}", DEMO / script)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
