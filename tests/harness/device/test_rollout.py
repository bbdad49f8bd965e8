"""The shares of a staged rollout: of files and of ways to run a cascade, beside a bundle that stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench_records import make_source, make_variant

from exporters.bundle.manifest import BundleMember, Manifest
from exporters.bundle.open import Bundle
from harness.device.rollout import Rollout, rollout_file
from udacisense.base.records import UNFITTED, from_json
from udacisense.errors import InputError


@pytest.fixture
def cascade() -> Bundle:
    """Two members with a .ptl and a Core ML file each; the app runs the former."""
    ids = ("ptl-fp32", "coreml-fp32")
    variants = [replace(make_variant(i), id=f"{name}.{i}") for name in ("small", "large") for i in ids]
    manifest = make_source("home", *variants).manifest
    members = tuple(
        BundleMember(
            name=name,
            artifact_sha256="0" * 64,
            confidence=UNFITTED,
            threshold=threshold,
            variants={i: f"{name}.{i}" for i in ids},
        )
        for name, threshold in (("small", 0.3), ("large", None))
    )
    manifest = replace(manifest, members=members)
    assert manifest.problem() is None
    return Bundle(Path("home"), manifest, Path("home"))


def test_files_and_ways_may_have_a_share(cascade: Bundle) -> None:
    (made,) = rollout_file(["ptl-fp32=10", "large.ptl-fp32=12.5"], cascade).items()
    assert made[0] == Rollout.FILE_NAME != Manifest.FILE_NAME
    assert from_json(Rollout, made[1].decode(), source="x").percent == {"ptl-fp32": 10.0, "large.ptl-fp32": 12.5}
    assert rollout_file([], cascade) == {}


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        (["small.ptl-fp23=5"], "with one of small.ptl-fp32, large.ptl-fp32, ptl-fp32"),
        (["coreml-fp32=5"], "with one of"),  # nothing that the app runs
        (["ptl-fp32"], "give ID=PERCENT"),
        (["ptl-fp32=x"], "a number from 0 to 100"),
        (["ptl-fp32=nan"], "a number from 0 to 100"),
        (["ptl-fp32=101"], "a number from 0 to 100"),
        (["ptl-fp32=1", "ptl-fp32=2"], "give each id once"),
        (["ptl-fp32=60", "small.ptl-fp32=41"], "are 101 % together; 100 is the most"),
    ],
)
def test_what_is_no_share_is_one_sentence(cascade: Bundle, shares: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        rollout_file(shares, cascade)
