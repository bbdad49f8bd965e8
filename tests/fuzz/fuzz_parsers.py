"""Every parser of bytes from outside: a row each. What a new one reads gets a row here, or a reason in ``fuzz_own``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import fuzz_containers as inside
import fuzz_phones as phones
import fuzz_reading as read
import fuzz_seeds as whole
import onnx
from fuzz_checkpoints import checkpoints
from fuzz_damage import damaged, toml_texts
from fuzz_seeds import Seeds
from hypothesis import strategies as st

from exporters.bundle.manifest import Manifest
from exporters.bundle.metadata import EXTRA_FILE, read_extra_file
from exporters.bundle.open import LABELS, open_bundle
from exporters.bundle.precision import load_activations
from exporters.bundle.reference import REFERENCE, load_reference
from harness.device.install import check_apk
from harness.verify.run import _refuse_damage
from udacisense.base.photos import read_square
from udacisense.base.records import Artifact
from udacisense.training.checkpoint import CHECKPOINT_NAME


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A row."""

    name: str
    reads: tuple[str, ...]  # modules of the product whose reading this is
    seed: Callable[[Seeds], bytes]  # a whole file
    damage: Callable[[bytes], st.SearchStrategy[bytes]]
    parse: read.Parse
    examples: int = 60
    in_child: bool = False  # read in a process of its own, which takes the memory that its libraries need


def row(
    name: str,
    reads: str,
    seed: Callable[[Seeds], bytes],
    damage: Callable[[bytes], st.SearchStrategy[bytes]],
    parse: read.Parse,
    **options: Any,
) -> Parser:
    return Parser(name=name, reads=tuple(reads.split()), seed=seed, damage=damage, parse=parse, **options)


def picture(form: str, suffix: str, damage: Any = damaged, **options: Any) -> Parser:
    return row(
        " ".join((form, "picture", *options.values())),
        "udacisense.base.photos",
        lambda _: whole.picture(form, **options),
        damage,
        read.alone(f"photo{suffix}", lambda path: read_square(path, 8)),
        examples=100,
    )


def record_in(relative: str, reads: str, *words: str, examples: int = 60) -> Parser:
    """A record that a command reads among the others."""
    name = f"{relative} in {words[0]}"
    return row(
        name, reads, read.of_records(relative), inside.records, read.in_records(relative, *words), examples=examples
    )


GATE = ("gate", "{}/p1/bundle", "--bench", "{}/host.bench.json", "-o", "{}/p1/made.json", "--junit", "{}/j.xml")
REPORTED = (
    "p1/bundle/manifest.json",
    "p1/bundle.verify.json",
    "p1/bundle.gate.json",
    "p1/baseline.evaluation.json",
    "p1/result.json",
    "host.bench.json",
    "techniques/techniques.json",
)
LABELS_OF = read.in_bundle(LABELS, lambda root: _refuse_damage(open_bundle(root)), with_checksums=True)
REFERENCE_OF = read.in_bundle(REFERENCE, lambda root: load_reference(open_bundle(root)))
MODEL_SPEC = "model-coreml-fp32.mlpackage/Data/com.apple.CoreML/model.mlmodel"
PACKAGE = "model-coreml-fp32.mlpackage/Manifest.json"

BUNDLES = (
    row(
        "manifest",
        "exporters.bundle.open udacisense.cli.inspect",
        read.of_bundle(Manifest.FILE_NAME),
        inside.records,
        read.in_bundle(Manifest.FILE_NAME, read.inspect),
        examples=150,
    ),
    row(
        "manifest, for a shell's completion",
        "udacisense.cli.options",
        read.of_bundle(Manifest.FILE_NAME),
        inside.records,
        read.in_bundle(Manifest.FILE_NAME, read.completed),
    ),
    row(
        "manifest, with the golden pack that it tells of",
        "harness.inputs",
        read.of_bundle(Manifest.FILE_NAME),
        lambda data: inside.part(data, "golden", "signature"),
        read.in_bundle(Manifest.FILE_NAME, read.golden),
        examples=150,
    ),
    row(
        "manifest, with the floats that it tells of",
        "exporters.bundle.golden",
        read.of_bundle(Manifest.FILE_NAME),
        lambda data: inside.part(data, "golden", "signature"),
        read.in_bundle(Manifest.FILE_NAME, read.floats),
    ),
    row(
        "golden inputs",
        "harness.inputs exporters.bundle.golden",
        read.of_bundle("golden/inputs.f32"),
        damaged,
        read.in_bundle("golden/inputs.f32", read.golden),
        examples=30,
    ),
    row(
        "zipped bundle",
        "exporters.bundle.open",
        lambda seeds: (seeds.root / "bundle.zip").read_bytes(),
        inside.zips({".json": inside.records}),
        read.alone("bundle.zip", read.inspect),
    ),
    row("labels", "harness.verify.run", read.of_bundle(LABELS), damaged, LABELS_OF, examples=30),
    row(
        "reference",
        "exporters.bundle.open exporters.bundle.reference",
        read.of_bundle(REFERENCE),
        inside.records,
        REFERENCE_OF,
    ),
    row(
        "calibrated activations",
        "exporters.bundle.precision",
        read.activations,
        inside.safetensors,
        read.alone("a.safetensors", load_activations),
    ),
)

TRAINED = (
    row(
        "artifact",
        "udacisense.models.artifact",
        lambda seeds: (seeds.artifact / Artifact.FILE_NAME).read_bytes(),
        inside.records,
        read.in_artifact(Artifact.FILE_NAME),
        examples=100,
    ),
    row(
        "artifact, the options of its model",
        "udacisense.models.artifact",
        lambda seeds: (seeds.artifact / Artifact.FILE_NAME).read_bytes(),
        lambda data: inside.part(data, "model"),
        read.in_artifact(Artifact.FILE_NAME),
        examples=100,
    ),
    row(
        "weights",
        "udacisense.models.weights",
        lambda seeds: (seeds.artifact / "model.safetensors").read_bytes(),
        inside.safetensors,
        read.alone("w.safetensors", read.weights),
    ),
    row(
        "weights of an artifact",
        "udacisense.models.weights udacisense.models.artifact",
        lambda seeds: (seeds.artifact / "model.safetensors").read_bytes(),
        inside.safetensors,
        read.in_artifact("model.safetensors", with_checksum=True),
        examples=40,
    ),
    row(
        "checkpoint",
        "udacisense.training.checkpoint",
        lambda seeds: (seeds.training / CHECKPOINT_NAME).read_bytes(),
        checkpoints,
        read.checkpoint,
        examples=15,
    ),
    row("step of a pipeline", "udacisense.pipeline.store", read.kept_step, inside.records, read.step),
)

PICTURES = (
    picture("PNG", ".png", inside.pngs),
    picture("PNG", ".png", inside.pngs, mode="P"),
    picture("PNG", ".png", inside.pngs, mode="I;16"),
    picture("JPEG", ".jpg"),
    picture("GIF", ".gif"),
    picture("BMP", ".bmp"),
    picture("PPM", ".ppm"),
    picture("TIFF", ".tif"),
    picture("TIFF", ".tif", compression="tiff_lzw"),
    picture("WEBP", ".webp"),
)

SETTINGS = (
    row(
        "requirements of the gate",
        "harness.gate.config udacisense.base.files",
        lambda _: read.TOML,
        toml_texts,
        read.gate_config,
        examples=200,
    ),
    row(
        "journal of a study",
        "udacisense.pipeline.search.storage",
        lambda _: whole.journal(),
        damaged,
        read.alone("a.journal", read.study),
        examples=200,
    ),
    row("limits", "harness.verify.limits", lambda _: read.LIMITS, toml_texts, read.limits, examples=100),
)

RECORDS = (
    *(
        row(f"{relative} as a baseline", "harness.gate.run", read.of_records(relative), inside.records, read.baseline)
        for relative in ("p1/bundle.gate.json", "p1/bundle.verify.json", "host.bench.json")
    ),
    record_in("p1/bundle.verify.json", "udacisense.cli.gate", *GATE, "--markdown", "{}/m.md"),
    record_in("host.bench.json", "udacisense.cli.gate", *GATE),
    record_in(
        "host.bench.json", "udacisense.cli.bench", "bench", "--compare", "{whole}/host.bench.json", "{}/host.bench.json"
    ),
    *(record_in(name, "harness.report.collect", "report", "{}", "-o", "{}/r.md", examples=30) for name in REPORTED),
)

EXPORTED = (
    row(
        "metadata of a TorchScript file",
        "exporters.bundle.metadata",
        lambda seeds: whole.lite(seeds).read_bytes(),
        inside.zips({EXTRA_FILE: inside.records}),
        read.alone("model.ptl", read_extra_file),
    ),
    row(
        "PyTorch lite file",
        "exporters.preflight.lite_facts",
        lambda seeds: whole.lite(seeds).read_bytes(),
        inside.zips({EXTRA_FILE: inside.records}),
        read.preflight("model.ptl"),
        examples=4,
        in_child=True,
    ),
    row(
        "ONNX file",
        "exporters.preflight.onnx_facts",
        read.of_bundle("model-onnx-fp32.onnx"),
        inside.protobufs(onnx.ModelProto.FromString),
        read.preflight("model.onnx"),
        examples=100,
    ),
    row(
        "ORT file",
        "exporters.preflight.onnx_facts udacisense.base.child",
        read.of_bundle("model-ort-fp32.ort"),
        damaged,
        read.preflight("model.ort", "--runtime", "mobile-1.18.0"),
        examples=4,
        in_child=True,
    ),
    row(
        "Core ML program",
        "exporters.formats.coreml",
        read.of_bundle(MODEL_SPEC),
        inside.protobufs(whole.core_ml_message),
        read.in_bundle(MODEL_SPEC, read.core_ml),
    ),
    row(
        "Core ML package's list",
        "exporters.formats.coreml",
        read.of_bundle(PACKAGE),
        inside.records,
        read.in_bundle(PACKAGE, read.core_ml),
    ),
    row(
        "TensorFlow Lite file",
        "exporters.bundle.tflite_file",
        lambda _: (files("harness.runtime") / "self_test" / "small.tflite").read_bytes(),
        damaged,
        read.preflight("model.tflite"),
        examples=100,
    ),
    row(
        "app",
        "exporters.preflight.apk",
        lambda _: whole.app(),
        inside.zips({".so": inside.libraries}),
        read.preflight("app.apk"),
        examples=150,
    ),
)

PHONES = (
    row(
        "app that is to be installed",
        "harness.device.install",
        lambda _: whole.app(),
        inside.zips(),
        read.alone("app.apk", check_apk),
    ),
    row(
        "archive of the phone's library",
        "harness.runtime.build",
        lambda _: whole.android_library(),
        inside.zips(),
        read.archive_of_library,
    ),
    row(
        "runtime that is set up",
        "harness.runtime.setup",
        lambda _: read.runtime_record(),
        inside.records,
        read.runtimes,
    ),
    row(
        "self-test of the app",
        "harness.device.results harness.device.pull",
        phones.selftest,
        inside.records,
        read.phone_result("selftest"),
    ),
    row(
        "times of the app",
        "harness.device.results harness.device.pull",
        phones.times,
        inside.records,
        read.phone_result("bench"),
    ),
    row(
        "what the phone's shell prints",
        "harness.device.phone harness.device.phones harness.device.orders harness.device.push",
        lambda _: phones.PRINTED,
        phones.printed,
        lambda place, data: phones.listen(data, open_bundle(place.seeds.bundle), place),
        examples=150,
    ),
    row(
        "answer of a worker",
        "harness.cell.run",
        lambda _: read.worker_record(),
        inside.records,
        lambda place, data: read.answered(place, data, read.worker_outputs()),
    ),
    row(
        "outputs of a worker",
        "harness.cell.run",
        lambda _: read.worker_outputs(),
        damaged,
        lambda place, data: read.answered(place, read.worker_record(), data),
    ),
)

PARSERS: tuple[Parser, ...] = (*BUNDLES, *TRAINED, *PICTURES, *SETTINGS, *RECORDS, *EXPORTED, *PHONES)
