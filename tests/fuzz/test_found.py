"""What the fuzz found, kept as cases of their own: each was another exception, or was taken for a value."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_phones as phones
import fuzz_reading as read
import fuzz_seeds as whole
import pytest
from fuzz_hold import Place, command
from fuzz_seeds import Seeds

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import check_bundle, open_bundle
from exporters.preflight.apk import load_alignments, preflight_apk
from harness.device.orders import result_names
from harness.device.phone import Phone
from harness.device.phones import list_phones
from harness.gate.config import GateConfig
from harness.gate.run import read_baseline
from harness.records import Timing
from harness.verify.run import _refuse_damage
from udacisense.base.records import ModelSpec, Outcome, Scalar, StageRecord, from_json
from udacisense.base.tensors import TENSOR_ERRORS
from udacisense.cli.options import _variants
from udacisense.errors import InputError, LoadError
from udacisense.models.build import build_model

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def place(seeds: Seeds, tmp_path: Path) -> Place:
    return Place(tmp_path / "outer", seeds)


def edited(place: Place, edit: Callable[[Any], None]) -> Path:
    """A copy of the bundle with another manifest."""
    root = place.copy(place.seeds.bundle, "bundle")
    content = json.loads((root / Manifest.FILE_NAME).read_text())
    edit(content)
    (root / Manifest.FILE_NAME).write_text(json.dumps(content))
    return root


def test_an_error_stays_one_line_whatever_it_quotes(place: Place) -> None:
    root = edited(place, lambda m: m.update({"two\nlines \x1b[31m": 1}))
    with pytest.raises(InputError) as caught:
        open_bundle(root)
    assert "two\\nlines \\x1b[31m: Unexpected keyword argument" in str(caught.value)
    assert command("inspect", root) == 2


@pytest.mark.parametrize("size", [{"width_px": -1, "height_px": -1024}, {"width_px": 0, "height_px": 10**12}])
def test_golden_images_have_a_size(place: Place, size: dict[str, int]) -> None:
    root = edited(place, lambda m: m["golden"]["images"][0].update(size))
    with pytest.raises(LoadError, match="cut short at image 0"):
        read.golden(root)


def test_no_path_holds_a_null_byte(place: Place) -> None:
    root = edited(place, lambda m: m["files"][0].update(path="golden\x00"))
    with pytest.raises(InputError, match="not to be trusted"):
        check_bundle(root)


def test_labels_that_are_no_text_are_not_the_signatures(place: Place) -> None:
    read.in_bundle("labels.txt", str, with_checksums=True)(place, b"\xe3lock\nlamp\nbed\n")
    with pytest.raises(LoadError, match="does not hold the signature's labels"):
        _refuse_damage(open_bundle(place.copy(place.seeds.bundle, "bundle")))


@pytest.mark.parametrize("text", ["variant = 3", "variant = true", f"a = {DEEP}", f"a = {'9' * 5000}"])
def test_requirements_that_no_gate_has_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"\[\[variant\]\] needs a match|is no valid TOML"):
        GateConfig(text)


@pytest.mark.parametrize("limit", ["nan", "inf"])
def test_a_limit_that_nothing_can_miss_is_no_limit(limit: str) -> None:
    with pytest.raises(InputError, match="finite number"):
        GateConfig(f"[accuracy]\nmax_drop_points = {limit}")


def test_records_hold_no_nan() -> None:
    text = whole.example_text(Timing).replace(b'"load_ms": 0.5', b'"load_ms": NaN')
    with pytest.raises(InputError, match="load_ms: Input should be a finite number"):
        from_json(Timing, text, source="the file")


def test_records_hold_no_figure_that_cannot_be() -> None:
    for kind, key, value in (
        (Timing, "median_ms", "0.0"),
        (Timing, "p99_ms", "-1.5"),
        (StageRecord, "top1_fraction", "1.5"),
        (StageRecord, "n_eval_images", "-1"),
        (StageRecord, "parameters", "1" * 30),
    ):
        content = json.loads(whole.example_text(kind)) | {key: "here"}
        text = json.dumps(content).replace('"here"', value)
        with pytest.raises(InputError, match=f"{key}: Input should be"):
            from_json(kind, text, source="the file")


def test_thousands_of_brackets_are_no_record(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(DEEP)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_baseline(tmp_path / "manifest.json")
    assert _variants(tmp_path) == []


@pytest.mark.parametrize("place_of_headers", [2**63, 2**64 - 1])
def test_program_headers_beyond_all_memory_are_beyond_the_end(place_of_headers: int) -> None:
    library = bytearray(whole.library())
    library[32:40] = struct.pack("<Q", place_of_headers)
    with pytest.raises(InputError, match="beyond its end"):
        load_alignments(bytes(library))


def test_an_entry_beyond_the_end_of_an_app_is_a_failed_check(tmp_path: Path) -> None:
    data = bytearray(whole.app())
    at = data.rindex(b"PK\x01\x02")  # the last entry of the list at the end, and in it the place of its header
    data[at + 42 : at + 46] = (len(data) - 10).to_bytes(4, "little")
    (tmp_path / "app.apk").write_bytes(data)
    failed = [check.found for check in preflight_apk(tmp_path / "app.apk").checks if check.outcome is Outcome.FAILED]
    assert any("unpack requires a buffer" in found for found in failed)


def test_a_network_wider_than_any_number_is_not_built() -> None:
    with pytest.raises(InputError, match="could not be built"):
        build_model(ModelSpec(architecture="mobilenet_v3_small", options={"width_mult": 1e308}))


@pytest.mark.parametrize("edge", [0, -4, 64.5, "64", 10**5, 10**30])
def test_a_network_that_resizes_to_no_size_is_not_built(edge: int | float | str) -> None:
    options: dict[str, Scalar] = {"resolution_px": edge, "size_px": 32}
    with pytest.raises(InputError, match="could not be built"):
        build_model(ModelSpec(architecture="mobilenet_v3_small", options=options))


def test_a_type_that_torch_lacks_is_no_readable_tensor(seeds: Seeds, tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F4", "shape": [32], "data_offsets": [0, 16]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(LoadError, match="not a readable safetensors file"):
        read.weights(path)
    assert AttributeError in TENSOR_ERRORS


@pytest.mark.parametrize("text", ["²", "9" * 5000])
def test_a_phone_of_no_known_api_is_listed(text: str) -> None:
    ready, other = list_phones(phones.Client(phones.Device(text)))  # type: ignore[arg-type]
    assert (ready.api, ready.free_bytes, ready.advice) == (None, None, None)
    assert other.advice is not None


def test_space_that_no_disk_has_is_not_known() -> None:
    text = f"Filesystem 1K-blocks Used Available Use% Mounted on\n/d 1 1 {'9' * 5000} 1% /sdcard"
    assert Phone(phones.Client(phones.Device(text)), "one", None).free_bytes("/sdcard") is None  # type: ignore[arg-type]


def test_a_phone_names_no_place_outside_the_folder(place: Place) -> None:
    device = phones.Device("../../../../udacisense-escaped.json\n", phones.selftest(place.seeds))
    with pytest.raises(InputError, match="is no file name"):
        result_names(Phone(phones.Client(device), "one", None))  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [b"", b"\x93NUMPY\x01\x00v\x00{'descr': (", b"PK\x03\x04", bytes(range(64))])
def test_a_worker_that_leaves_garbage_has_a_failed_cell(place: Place, answer: bytes) -> None:
    read.answered(place, read.worker_record(), answer)
