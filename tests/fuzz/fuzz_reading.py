"""How each kind of file is read: what the product does with it, down to the answer that a user sees."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import fuzz_phones as phones
import fuzz_seeds as whole
import numpy as np
import torch
from bundle_damage import rehash
from fuzz_hold import Place, command
from fuzz_seeds import Seeds

from exporters.bundle.open import check_bundle, open_bundle
from harness.cell.run import CellResult, Job, run_cell
from harness.device.contract import Command
from harness.gate.config import GateConfig, read_config
from harness.gate.run import Past, gate_bundle, read_baseline
from harness.inputs import golden_pack
from harness.records import MeasurementSet, RunSpec
from harness.runtime.build import _unpack_library
from harness.runtime.catalogue import RUNTIMES
from harness.runtime.setup import Installed, list_runtimes
from harness.verify.limits import read_limits
from udacisense.base.files import sha256_file
from udacisense.base.records import Artifact, read_json, to_json, write_record
from udacisense.base.tensors import save_tensors
from udacisense.cli.options import _variants
from udacisense.models.artifact import load_artifact
from udacisense.models.build import build_model
from udacisense.models.weights import initialise, load_state
from udacisense.pipeline.search.storage import open_storage, open_study
from udacisense.pipeline.store import STEP_FILE, KeptStep, StepStore
from udacisense.training.checkpoint import CHECKPOINT_NAME

Parse = Callable[[Place, bytes], object]
_WHEN = b'"2026-01-01T00:00:00+00:00"'


def alone(name: str, read: Callable[[Path], object]) -> Parse:
    """A file beside nothing else."""
    return lambda place, data: read(place.write(name, data))


def preflight(name: str, *options: str) -> Parse:
    return alone(name, lambda path: command("preflight", path, *options))


# --- A bundle ------------------------------------------------------------------------------------------------------


def of_bundle(relative: str) -> Callable[[Seeds], bytes]:
    return lambda seeds: (seeds.bundle / relative).read_bytes()


def in_bundle(relative: str, read: Callable[[Path], object], *, with_checksums: bool = False) -> Parse:
    """Damage a file of a bundle; with checksums that are right, as by a faulty or hostile writer."""

    def parse(place: Place, data: bytes) -> object:
        root = place.copy(place.seeds.bundle, "bundle")
        (root / relative).write_bytes(data)
        if with_checksums:
            rehash(root)
        return read(root)

    return parse


def inspect(path: Path) -> int:
    code = command("inspect", path)
    assert (code == 0) == (code < 2 and check_bundle(path) == [])
    return code


def golden(root: Path) -> None:
    golden_pack(root, open_bundle(root).manifest)


def floats(root: Path) -> None:
    bundle = open_bundle(root)
    bundle.golden_inputs()
    for variant in bundle.exported():
        bundle.golden_logits(variant)


def completed(root: Path) -> None:
    assert all(isinstance(name, str) for name in _variants(root)), "whoever presses TAB gets names and no error"


def core_ml(root: Path) -> int:
    return command("preflight", root / "model-coreml-fp32.mlpackage")


# --- What was trained ----------------------------------------------------------------------------------------------


def in_artifact(name: str, *, with_checksum: bool = False) -> Parse:
    """Damage an artifact's file, and let what is loaded answer an image."""

    def parse(place: Place, data: bytes) -> object:
        root = place.copy(place.seeds.artifact, "artifact")
        (root / name).write_bytes(data)
        if with_checksum:
            record = read_json(Artifact, place.seeds.artifact / Artifact.FILE_NAME)
            made = dataclasses.replace(record, sha256=sha256_file(root / name))
            write_record(root / Artifact.FILE_NAME, made)
        model = load_artifact(root)[1]
        return model(torch.zeros(1, 3, 32, 32))

    return parse


def weights(path: Path) -> None:
    initialise(build_model(whole.spec()), str(path), whole.spec())
    load_state(build_model(whole.spec()), path)


def activations(seeds: Seeds) -> bytes:
    path = seeds.root / "activations.safetensors"
    save_tensors(path, {"features.0": torch.linspace(-1, 1, 4), "features.1": torch.ones(2, 3)})
    return path.read_bytes()


def checkpoint(place: Place, data: bytes) -> None:
    folder = place.copy(place.seeds.training, "training")
    (folder / CHECKPOINT_NAME).write_bytes(data)
    whole.train_on_colours(folder, resume=True)


def kept_step(seeds: Seeds) -> bytes:
    weights_sha256 = sha256_file(seeds.artifact / "model.safetensors")
    made = dataclasses.replace(
        whole.example_of(KeptStep),
        fingerprint="f",
        spec=whole.spec(),
        weights="model.safetensors",
        weights_sha256=weights_sha256,
    )
    return to_json(made).encode()


def step(place: Place, data: bytes) -> None:
    """A finished step of a pipeline that goes on: one that is damaged is done again."""
    folder = place.inner / "run" / "steps" / "01-distill"
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes((place.seeds.artifact / "model.safetensors").read_bytes())
    (folder / STEP_FILE).write_bytes(data)
    store = StepStore(place.inner / "run", build_model(whole.spec()))
    if (kept := store.find(1, "distill", "f")) is not None and kept.weights is not None:
        store.load(1, "distill", kept)


# --- Settings and records ------------------------------------------------------------------------------------------

TOML = b"""
[consistency]
required = ["ptl-*"]
[accuracy]
max_drop_points = 5.0
min_top1_fraction = 0.5
[size]
max_bytes = 5_000_000
min_reduction_percent = 30.0
reference = "onnx-fp32"
[speed]
max_median_ms = 20.0
min_speedup = 1.5
[regression]
max_accuracy_drop_points = 1.0
[[variant]]
match = "*-fp32"
accuracy = { max_drop_points = 10.0 }
"""
LIMITS = b"""
[int8-dynamic]
min_agreement_fraction = 0.95
[onnx-fp32]
rtol = 0.001
is_close = true
max_flip_margin = 0.1
"""


def of_records(relative: str) -> Callable[[Seeds], bytes]:
    return lambda seeds: (seeds.records / relative).read_bytes()


def in_records(relative: str, *words: str) -> Parse:
    """Damage a record, then run a command in its folder; ``{}`` is the folder, and ``{whole}`` one without damage."""

    def parse(place: Place, data: bytes) -> object:
        root = place.copy(place.seeds.records, "records")
        (root / relative).write_bytes(data)
        return command(*(word.format(root, whole=place.seeds.records) for word in words))

    return parse


def gate_config(place: Place, data: bytes) -> None:
    _gate(place, config=read_config(place.write("gate.toml", data)))


def baseline(place: Place, data: bytes) -> None:
    _gate(place, past=read_baseline(place.write("old.json", data)))


def _gate(place: Place, *, config: GateConfig | None = None, past: Past | None = None) -> None:
    bundle = place.seeds.records / "p1" / "bundle"
    verified = read_json(MeasurementSet, bundle.with_name("bundle.verify.json"))
    gate_bundle(bundle, verification=verified, config=config, baseline=past)


def study(path: Path) -> None:
    """Join the study that lies there, and look through its trials."""
    storage = open_storage(str(path), path.parent, wait_s=0.1)
    for trial in open_study(storage, "search", {"seed": 0}).trials:
        assert trial.state.is_finished() == (trial.datetime_complete is not None)


def limits(place: Place, data: bytes) -> None:
    read_limits(place.write("limits.toml", data), open_bundle(place.seeds.bundle).manifest.variants)


# --- Phones, their library, and workers ----------------------------------------------------------------------------


def phone_result(name: Command) -> Parse:
    def parse(place: Place, data: bytes) -> None:
        bundle = open_bundle(place.seeds.bundle)
        phones.pull(data, bundle, place)
        phones.take_result(data, bundle, name)

    return parse


def runtime_record() -> bytes:
    return whole.example_text(Installed).replace(b'"text"', _WHEN)


def runtimes(place: Place, data: bytes) -> None:
    """Two versions of a runtime, one of them damaged."""
    place.write("runtimes/android-x86_64-1.12.2/runtime.json", data)
    place.write("runtimes/android-x86_64-2.1.0/runtime.json", runtime_record())
    with mock.patch.dict(os.environ, {"UDACISENSE_CACHE": str(place.inner)}):
        list_runtimes()


def archive_of_library(place: Place, data: bytes) -> None:
    folder = place.inner / "made"
    for name in ("lib", "classes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _unpack_library(place.write("pytorch.aar", data), RUNTIMES["android-x86_64"], folder)


def worker_record() -> bytes:
    made = dataclasses.replace(whole.example_of(CellResult), values={"metadata": None, "others": {}})
    return to_json(made).encode()


def worker_outputs() -> bytes:
    return whole.saved(np.zeros((2, 3), np.float32))


def answered(place: Place, result: bytes, outputs: bytes) -> None:
    """A worker that leaves this answer: whatever it is, the cell has a result, and nothing is raised."""

    def work(module: str, folder: Path, **options: object) -> None:
        (folder / "result.json").write_bytes(result)
        (folder / "outputs.npy").write_bytes(outputs)

    job = Job(
        task="outputs",
        spec=dataclasses.replace(whole.example_of(RunSpec), runner="onnxruntime"),
        variant=open_bundle(place.seeds.bundle).variant("onnx-fp32").loadable,
        model_path="",
        inputs_path="",
        others=(),
    )
    with mock.patch("harness.cell.run.run_child", work):
        assert run_cell(job).result.outcome is not None
