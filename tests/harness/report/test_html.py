"""The HTML report holds what the records hold, in one file, and hostile names stay text."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from PIL import Image
from report_records import HOSTILE, golden_pixels, stage, write_phone_verification, write_records

from harness.report.collect import collect
from harness.report.html import to_html
from harness.report.table import shortened, visible
from udacisense.cli.main import run
from udacisense.pipeline.requirements import check_requirements


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def html(records: Path) -> str:
    return to_html(collect([records]), title="A report")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_nothing_is_loaded_from_anywhere(page: Page, html: str) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), f"<{tag} {name}={target[:80]}>"
    assert "@import" not in html
    assert not re.search(r"url\((?!['\"]?#)", html), "a style loads something"
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "'unsafe-inline'" not in policy.split("script-src")[1]


def test_requirements_stand_with_limit_interval_and_outcome(page: Page) -> None:
    assert page.row("small", "file size reduction")[2:] == ["50.0 %", "at least 30 %", "exact", "passed"]
    lost = page.row("small", "top-1 accuracy lost")
    assert lost[2:4] == ["4.0 points", "at most 5 points"]
    assert "1.0 to 7.0 points" in lost[4]
    assert "the limit lies within" in lost[4]
    assert page.row("small", "latency reduction")[-1] == "failed"
    assert "small misses 1 of 3 requirements: latency reduction is 40.0 %, at least 50 % is wanted." in page.text


def test_each_stage_shows_its_own_contribution(page: Page) -> None:
    assert page.row("distil", "-2.000 MB")[3:5] == ["+2.00 ms", "-3.0 points"]
    assert page.row("graph", "-1.000 MB")[3:5] == ["-6.00 ms", "-1.0 points"]


def test_every_platform_gets_a_file_and_what_speaks_for_it(page: Page) -> None:
    ship = page.row("small", "Android app, PyTorch Mobile")
    assert ship[2:5] == ["ptl-int8-dynamic-qnnpack", "0.400 MB", "75.0 %"]
    assert "verified on lite, timed on lite" in ship[6]
    assert "NOT VERIFIED" not in page.text
    assert page.row("small", "iOS app, Core ML")[5:] == ["–", "verified on mil, not timed"]
    assert not any(row[1:2] == ["Android or iOS app, ExecuTorch"] for row in page.rows), "it was never exported"


def test_a_phones_check_stays_out_of_a_computers_figures(tmp_path: Path) -> None:
    folder = write_records(tmp_path)
    write_phone_verification(folder / "p1" / "bundle", folder / "a-phone.verify.json")
    page = Page(to_html(collect([folder]), title="T"))
    computer, phone = (row for row in page.rows if row[:2] == ["small", "Android app, PyTorch Mobile"])
    assert [computer[4], phone[4]] == ["75.0 %", "75.0 %"], "of the whole test set, not of the golden pack"
    assert computer[5].endswith(" ms (not a phone's)")
    assert phone[5].endswith(" ms")
    assert computer[6].startswith("verified on lite, timed on lite")
    assert phone[6].startswith("verified on android-app, timed on lite")
    computer, phone = (row for row in page.rows if row[:2] == ["small", "iOS app, Core ML"])
    assert computer[4:] == ["75.0 %", "–", "verified on mil, not timed"]
    assert phone[4:] == ["75.0 %", "–", "verified on android-app, not timed"]


def test_each_machines_own_check_comes_first(tmp_path: Path) -> None:
    folder = write_records(tmp_path)
    write_phone_verification(folder / "p1" / "bundle", folder / "a-phone.verify.json", runner="lite")
    page = Page(to_html(collect([folder]), title="T"))
    for platform in ("Android app, PyTorch Mobile", "iOS app, Core ML"):
        assert [row[4] for row in page.rows if row[:2] == ["small", platform]] == ["75.0 %", "25.0 %"]


def test_a_check_elsewhere_is_told_with_its_machine(tmp_path: Path) -> None:
    folder = write_records(tmp_path)
    write_phone_verification(folder / "p1" / "bundle", folder / "p1" / "bundle.verify.json")  # nobody else checked
    page = Page(to_html(collect([folder]), title="T"))
    ship = page.row("small", "iOS app, Core ML")
    assert ship[4:] == ["–", "–", "verified on android-app (Phone SoC, 8 cores, aarch64), not timed"]


def test_what_nobody_checked_is_listed_with_its_reason(page: Page) -> None:
    assert page.row("not verified", "needs macOS")[3] == "small/coreml-fp32"
    assert page.row("not exported")[3] == "small/executorch-fp32"


def test_flipped_images_are_the_golden_packs_own_pixels(page: Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1
    uri = images[0]["src"] or ""
    shown = np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert np.array_equal(shown, golden_pixels()[2].transpose(1, 2, 0))
    assert images[0]["alt"] == "Image 2, a bed: the master answers bed, a file lamp."
    assert "ptl-int8-dynamic-qnnpack on lite: lamp" in page.text
    assert page.row("2", "4")[3:] == ["bed", "lamp", "0.25"]


def test_images_of_other_data_are_not_drawn_and_that_is_said(tmp_path: Path) -> None:
    text = to_html(collect([write_records(tmp_path, inputs="household test, 4 images")]), title="T")
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "Flips were found on household test, 4 images" in page.text


def test_a_bundle_that_has_changed_since_is_not_passed_off_as_verified(tmp_path: Path) -> None:
    folder = write_records(tmp_path)
    manifest = folder / "p1" / "bundle" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("1000000", "1000001"))
    page = Page(to_html(collect([folder]), title="T"))
    assert "its files were not verified" in page.text
    assert "or has changed since" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_two_machines_have_a_part_and_a_ranking_each(html: str, page: Page) -> None:
    titles = re.findall("<h3>Measured on ([^<]*)", html)
    assert len(titles) == 2
    assert sum("Phone SoC" in title for title in titles) == 1
    cells = [row for row in page.rows if row[:1] == ["small/onnx-fp32 t1"] and len(row) > 8]
    assert [row[1] for row in cells] == ["2.21 ms", "6.62 ms"], "each in its own table"
    assert "2 machines measured" in page.text
    ship = [row[5] for row in page.rows if row[:2] == ["small", "Android or iOS app, ONNX Runtime"]]
    assert ship == ["1.56 ms (not a phone's)", "4.68 ms"]
    ship = [row[5] for row in page.rows if row[:2] == ["small", "server or desktop"]]
    assert ship == ["1.56 ms", "4.68 ms (a phone's)"]
    assert "What to ship where, by the times of Phone SoC, 8 cores, aarch64" in page.text


def test_confusion_and_heat_map_carry_the_counts(page: Page) -> None:
    confusion = [row for row in page.rows if row == ["lamp", "1", "8", "0", "0", "0", "0", "0"]]
    assert len(confusion) == 1
    assert page.row("baseline")[1] == "6.000 MB"
    shades = {attributes.get("class") for tag, attributes in page.tags if tag == "td"}
    assert {"heat-0", "heat-7"} <= shades


def test_techniques_stand_with_their_price(page: Page) -> None:
    row = page.row("prune", "2.000 MB")
    assert row[2] == "-66.7 %"
    assert row[5:9] == ["0.50", "86.0 %", "84.0-88.0", "-2.0"]
    assert "Confusion of prune" in page.text


def test_every_drawing_says_what_it_shows_and_keeps_its_figures(page: Page) -> None:
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) >= 3 + 2 + 2 * 9
    assert all(a.get("role") == "img" and len(a.get("aria-label") or "") > 20 for a in drawings)
    assert sum(tag == "details" and a.get("class") == "data" for tag, a in page.tags) >= len(drawings)
    for title in (
        "How the times spread",
        "What more threads bring",
        "Engines compared",
        "Share of calls within a time",
        "From the first call to the steady state",
        "Drift within a run",
        "Roofline of this host",
        "Size and latency",
        "Accuracy and latency",
        "Agreement with the float32 master",
    ):
        assert title in page.text


def test_ids_are_unique_and_the_same_records_give_the_same_bytes(records: Path, html: str, page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    again = to_html(collect([records]), title="A report")
    stamp = re.compile(r"Made [\dT:+-]+ by")
    assert stamp.sub("", again) == stamp.sub("", html)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    text = to_html(collect([write_records(tmp_path, hostile=True)]), title=HOSTILE[1])
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all((a["src"] or "").startswith("data:") for tag, a in page.tags if tag == "img")
    assert HOSTILE[0] in page.text, "it is shown as it is"
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069\x00-\x08]", text), "a direction mark got through"
    assert "⟨U+202E⟩" in page.text


def test_invisible_characters_are_spelt_out_and_scripts_kept() -> None:
    assert visible("a\u202eb\ud800\x1b") == "a⟨U+202E⟩b⟨U+D800⟩⟨U+001B⟩"
    assert visible("می\u200cخواهم 日本語") == "می\u200cخواهم 日本語"
    assert shortened("abcdefghij", 7) == "abcd…ij"
    assert shortened("abc", 7) == "abc"


def test_the_interval_of_lost_points_is_newcombes() -> None:
    """Newcombe 1998, table II, example (a): 56/70 against 48/80, method 10."""
    labels = ("a",)
    before = stage("x", file_bytes=1, latency_ms=1.0, top1=56 / 70, labels=labels)
    after = stage("y", file_bytes=1, latency_ms=1.0, top1=48 / 80, labels=labels)
    object.__setattr__(before, "n_eval_images", 70)
    object.__setattr__(after, "n_eval_images", 80)
    lost = check_requirements(before, after)[2]
    assert (lost.low, lost.high) == pytest.approx((5.24, 33.39), abs=0.01)


def test_the_command_writes_one_file_and_refuses_what_it_cannot_do(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "report.html"
    assert run(["report", str(records), "-o", str(out), "--title", "Mine"]) == 0
    assert "<h1>Mine</h1>" in out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    assert run(["report", str(records), "-o", str(tmp_path / "r.md"), "--data", "x"]) == 2
    assert "--data draws images" in capsys.readouterr().err
