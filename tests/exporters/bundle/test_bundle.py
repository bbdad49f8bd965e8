"""A bundle proves itself: every byte, every path, and the models that it was made from."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.bundle.golden import answer
from exporters.bundle.manifest import Manifest
from exporters.bundle.open import check_bundle, inside, open_bundle, opened, write_zip
from exporters.bundle.reference import eager_source, has_own_source, load_reference
from udacisense.base.records import from_json
from udacisense.errors import InputError, LoadError

# Said once a process, by whichever test is the first to run a dynamically quantised layer under QNNPACK.
pytestmark = pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")


def test_an_intact_bundle_has_no_problems(exported) -> None:
    assert check_bundle(exported.bundle.root) == []


def test_one_changed_byte_is_named(copied: Path) -> None:
    path = copied / "golden" / "images.u8"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert check_bundle(copied) == ["golden/images.u8 is changed: its SHA-256 differs from the manifest's"]


def test_a_missing_an_extra_and_a_shortened_file_are_named(copied: Path) -> None:
    (copied / "labels.txt").unlink()
    (copied / "notes.txt").write_text("mine")
    weights = copied / "model-coreml-fp16.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    problems = "\n".join(check_bundle(copied))
    assert "labels.txt is missing" in problems
    assert "notes.txt is extra" in problems
    assert "weights/weight.bin is changed" in problems
    assert "variant coreml-fp16 (model-coreml-fp16.mlpackage) is not the one" in problems


def test_a_link_is_named(copied: Path, tmp_path: Path) -> None:
    (copied / "more").symlink_to(tmp_path)
    assert check_bundle(copied) == ["more is a link; a bundle holds plain files"]


def two_members(manifest: dict) -> dict:
    """Make two members of a manifest's first two variants, as if there were no others."""
    confidence = {"temperature": 1.5, "rule": "margin", "unsure_below": 0.1, "n_images": 50}
    manifest = manifest | {"variants": manifest["variants"][:2]}
    parts = dict(zip(("small", "large"), (variant["id"] for variant in manifest["variants"]), strict=True))
    members = [
        {"name": name, "artifact_sha256": "0" * 64, "confidence": confidence, "threshold": 0.5, "variants": {}}
        | {"variants": {"ptl-fp32": id_}}
        for name, id_ in parts.items()
    ]
    members[-1]["threshold"] = None
    return manifest | {"members": members}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda m: m["members"].pop(), "two or more members"),
        (lambda m: m["members"][1].update(name="small"), "each with a name of its own"),
        (lambda m: m["members"][1].update(name="a/b"), "that of a folder"),
        (lambda m: m["members"][1].update(name=".."), "leaves the bundle"),
        (lambda m: m["members"][0]["variants"].clear(), "each variant must belong to one member"),
        (lambda m: m["members"][0]["variants"].update(other="coreml-fp16"), "each variant must belong to one member"),
        (lambda m: m["members"][0].update(variants={"x": m["variants"][0]["id"]}), "under the same keys"),
        (lambda m: m["members"][0].update(threshold=None), "every member but the last has a threshold"),
        (lambda m: m["members"][1].update(threshold=0.5), "every member but the last has a threshold"),
        (lambda m: m["members"][0].update(threshold=1.5), "members.0.threshold"),
        (lambda m: m["members"][0].pop("confidence"), "members.0.confidence"),
    ],
)
def test_members_that_contradict_the_variants_are_refused(copied: Path, damage, said: str) -> None:
    path = copied / "manifest.json"
    manifest = two_members(json.loads(path.read_text()))
    path.write_text(json.dumps(manifest))
    assert [member.threshold for member in open_bundle(copied).manifest.members or ()] == [0.5, None]
    damage(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=said):
        open_bundle(copied)


def test_a_variant_whose_file_the_manifest_swaps_is_named(copied: Path) -> None:
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    first = next(v for v in manifest["variants"] if v["id"] == "ptl-fp32")
    first["path"] = "model-torchscript-fp32.pt"
    path.write_text(json.dumps(manifest))
    assert any("ptl-fp32" in problem for problem in check_bundle(copied))


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "", "C:\\x", "..\\x"])
def test_paths_that_leave_the_bundle_are_refused(copied: Path, path: str) -> None:
    with pytest.raises(InputError, match="leaves the bundle"):
        inside(copied, path)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"][0]["path"] = path
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="leaves the bundle"):
        open_bundle(copied)


def test_a_zip_holds_the_same_and_is_repeatable(exported, tmp_path: Path) -> None:
    write_zip(exported.bundle.root, tmp_path / "a.zip")
    os.utime(exported.bundle.root / "labels.txt")
    write_zip(exported.bundle.root, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert check_bundle(tmp_path / "a.zip") == []
    with opened(tmp_path / "a.zip") as bundle:
        assert bundle.manifest == exported.bundle.manifest
        root = bundle.root
    assert not root.exists()


def test_what_is_unpacked_of_a_zip_is_gone_when_the_process_ends(exported, tmp_path: Path) -> None:
    write_zip(exported.bundle.root, tmp_path / "whole.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "no bundle")
    (tmp_path / "temporary").mkdir()
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from exporters.bundle.open import check_files, open_bundle\n"
        "bundle = open_bundle(Path(sys.argv[1]))\n"
        "assert check_files(bundle) == [], 'the files are there as long as the process'\n"
        "print(bundle.root)\n"
        "open_bundle(Path(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "whole.zip"), str(tmp_path / "other.zip")],
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(str(tmp_path / "temporary")), done.stderr
    assert "other.zip holds no manifest.json" in done.stderr
    assert not list((tmp_path / "temporary").iterdir())


def _entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (_entry("../escaped.txt"), "leaves the bundle"),
        (_entry("/tmp/escaped.txt"), "leaves the bundle"),  # noqa: S108 - a path in a hostile zip
        (_entry("link", stat.S_IFLNK | 0o777), "holds the link"),
    ],
)
def test_a_hostile_zip_is_refused_before_a_byte_is_written(
    tmp_path: Path, entry: zipfile.ZipInfo, message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
        archive.writestr(entry, "../../outside")
    with pytest.raises(InputError, match=message):
        open_bundle(tmp_path / "bad.zip", unpack_to=tmp_path / "in" / "bundle")
    assert {p.name for p in tmp_path.rglob("*")} <= {"bad.zip", "in"}


def test_a_zip_damaged_inside_a_file_says_so(exported, tmp_path: Path) -> None:
    """A bit of the compressed data, where the archive's own directory is whole, is met while unpacking."""
    whole = tmp_path / "whole.zip"
    write_zip(exported.bundle.root, whole)
    with zipfile.ZipFile(whole) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.compress_size)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        damaged = bytearray(whole.read_bytes())
        at = largest.header_offset + 30 + len(largest.filename) + int(share * largest.compress_size)
        damaged[at : at + 40] = bytes(255 - byte for byte in damaged[at : at + 40])
        (tmp_path / "damaged.zip").write_bytes(damaged)
        with pytest.raises(InputError, match=r"no readable \.zip"):
            open_bundle(tmp_path / "damaged.zip", unpack_to=tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_what_is_no_bundle_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"no readable \.zip"):
        open_bundle(tmp_path / "some.zip")
    with pytest.raises(InputError, match=r"no manifest\.json"):
        open_bundle(tmp_path)
    with pytest.raises(InputError, match=r"There is no bundle at .*; give the folder"):
        open_bundle(tmp_path / "absent")


def test_a_model_in_place_of_a_bundle_is_told_to_be_exported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"export it first: udacisense export tiny -o bundle\.$"):
        open_bundle(Path("tiny"))
    artifact = tmp_path / "my artifact"
    artifact.mkdir()
    (artifact / "artifact.json").write_text("{}")
    with pytest.raises(InputError, match=f"export it first: udacisense export '{artifact}' -o bundle"):
        open_bundle(artifact)
    Path("tiny").mkdir()
    with pytest.raises(InputError, match=r"holds no manifest\.json; give the folder"):
        open_bundle(Path("tiny"))


@pytest.mark.slow
def test_int8_sources_are_rebuilt_bit_by_bit(exported) -> None:
    bundle = exported.bundle
    own = [v for v in bundle.exported() if has_own_source(v)]
    assert len(own) == 6
    for variant in own:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = variant.engine
        try:
            model = eager_source(bundle, variant)
            found = answer(model, torch.from_numpy(bundle.golden_inputs())).numpy()
        finally:
            torch.backends.quantized.engine = before
        np.testing.assert_array_equal(found, bundle.golden_logits(variant), err_msg=variant.id)
        # It is another network than the float32 master: the test would pass on any model otherwise.
        assert not np.array_equal(found, bundle.golden_logits())


def test_a_reference_with_other_weights_is_refused(copied: Path) -> None:
    path = copied / "reference/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LoadError, match="not those that the manifest records"):
        load_reference(open_bundle(copied))


def test_a_bundle_does_not_run_foreign_code_unasked(copied: Path) -> None:
    path = copied / "reference/reference.json"
    reference = json.loads(path.read_text())
    reference["model"] = {"architecture": "torch.nn:Identity", "options": {}}
    path.write_text(json.dumps(reference))
    with pytest.raises(InputError, match="not run unasked"):
        load_reference(open_bundle(copied))
    with pytest.raises(InputError, match=r"allow it by name: --allow-factory torch\.nn:Identity"):
        load_reference(open_bundle(copied), allow_factory="another:factory")


def test_a_bundle_of_the_release_before_opens_without_its_recommended_setting(copied: Path) -> None:
    path = copied / "manifest.json"
    written = json.loads(path.read_text())
    setting = {"variant_id": "ptl-fp32", "runner": "lite", "engine": None, "threads": 1, "median_ms": 1.5}
    for value in (None, setting):
        path.write_text(json.dumps({**written, "recommended": value}))
        assert open_bundle(copied).manifest == from_json(Manifest, json.dumps(written), source="the manifest")
    path.write_text(json.dumps({**written, "recommend": None}))
    with pytest.raises(InputError, match="recommend"):
        open_bundle(copied)


def test_a_zip_that_unpacks_to_far_more_than_it_is_stays_packed(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(100_000_000))
    with pytest.raises(InputError, match=r"would unpack to 100,000,000 bytes, more than 100 times its own size"):
        open_bundle(bomb, unpack_to=tmp_path / "unpacked")
    assert list(tmp_path.iterdir()) == [bomb], "nothing was written"
