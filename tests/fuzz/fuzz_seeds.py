"""Real, whole files of every kind that is parsed: what the fuzz begins with."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import io
import tempfile
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report_records
import torch
import training_cases
from fuzz_containers import zip_of
from numpy.typing import NDArray
from PIL import Image

from exporters.bundle.open import open_bundle, write_zip
from exporters.export import export_bundle
from exporters.formats.contract import ExportOptions
from exporters.source import source_from_artifact
from harness.gate.run import GateReport, gate_bundle
from harness.records import BenchSet, MeasurementSet
from harness.runtime.shim import LIBRARIES
from udacisense.base.records import ModelSpec, StageRecord, read_json, to_json, write_record
from udacisense.data.images import make_signature
from udacisense.models.artifact import save_artifact
from udacisense.models.build import build_model, preset
from udacisense.pipeline.search.storage import open_storage, open_study
from udacisense.training import train
from udacisense.training.types import Keep, TrainConfig

LABELS = ("clock", "lamp", "bed")
LIBRARY = "lib/arm64-v8a/libreal.so"


@dataclass(frozen=True)
class Seeds:
    """The folder of the files, and what is in it."""

    root: Path

    @property
    def artifact(self) -> Path:
        return self.root / "artifact"

    @property
    def bundle(self) -> Path:
        """PyTorch lite, ONNX, ORT and Core ML, all float32, of that artifact."""
        return self.root / "bundle"

    @property
    def records(self) -> Path:
        """Every kind of record of two machines, as the report's tests have them."""
        return self.root / "records"

    @property
    def training(self) -> Path:
        return self.root / "training"


def make_seeds(root: Path) -> Seeds:
    """Train, export and measure on a small scale."""
    seeds = Seeds(root)
    torch.manual_seed(0)
    save_artifact(
        seeds.artifact,
        name="small",
        model=build_model(spec()),
        spec=spec(),
        signature=make_signature(LABELS),
        baseline=example_of(StageRecord),
        stages=(example_of(StageRecord),),
        seed=0,
    )
    options = ExportOptions(formats=("ptl", "onnx", "coreml"), precisions=("fp32",))
    export_bundle(source_from_artifact(seeds.artifact, None), seeds.bundle, options)
    write_zip(seeds.bundle, root / "bundle.zip")
    report_records.write_records(seeds.records)
    for name in ("host", "phone"):
        shorten(seeds.records / f"{name}.bench.json")
    verified = seeds.records / "p1" / "bundle.verify.json"
    report = gate_bundle(seeds.records / "p1" / "bundle", verification=read_json(MeasurementSet, verified))
    write_record(seeds.records / "p1" / f"bundle.{GateReport.FILE_NAME}", report)
    train_on_colours(seeds.training, resume=False)
    return seeds


def shorten(path: Path) -> None:
    """Keep three rounds and three samples of a sweep: damage shall not land in the four hundredth sample."""
    made = read_json(BenchSet, path)
    runs = [
        dataclasses.replace(found, timing=short)
        for found in made.runs
        if found.round < 3 and (timing := found.timing) is not None
        for short in [dataclasses.replace(timing, samples_ms=timing.samples_ms[:3])]
    ]
    write_record(path, dataclasses.replace(made, runs=tuple(runs)))


def train_on_colours(folder: Path, *, resume: bool) -> None:
    """Two epochs on coloured squares, ended after the first; resumed, they take up the checkpoint and do the second."""
    model = training_cases.build(training_cases.tiny_spec())
    config = TrainConfig(epochs=2, ema_decay=0.9, schedule="plateau")

    def stop(model: torch.nn.Module, epoch: int) -> None:
        if epoch == 1 and not resume:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(
            model,
            training_cases.batches(16),
            config=config,
            validation=training_cases.held_back(),
            keep=Keep(folder=folder, identity={"data": "colours"}, resume=resume),
            before_epoch=stop,
        )


def spec() -> ModelSpec:
    """The network of the artifact and of the bundle."""
    return preset("tiny", num_classes=len(LABELS), resolution_px=32)


def journal() -> bytes:
    """A study of two trials, as a search keeps it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "a.journal"
        study = open_study(open_storage(str(place), place.parent, wait_s=0.1), "search", {"seed": 0})
        for loss in (0.5, 0.4):
            trial = study.ask()
            trial.suggest_int("width", 8, 32)
            trial.set_user_attr("parameters", 1_000)
            trial.report(loss, 1)
            study.tell(trial, loss)
        return place.read_bytes()


def saved(values: NDArray[Any]) -> bytes:
    """What NumPy writes of an array."""
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def core_ml_message(data: bytes) -> Any:
    """Parse the program of a Core ML package."""
    from coremltools.proto import Model_pb2

    return Model_pb2.Model.FromString(data)


def picture(form: str, **options: Any) -> bytes:
    """A photo-like picture in a file format, in the mode that ``options`` name."""
    mode = options.pop("mode", "RGB")
    values = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    made = Image.fromarray(values)
    if mode == "I;16":
        made = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        made = made.convert(mode)
    if form == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turned
        exif[0x010E] = "a picture"
        options["exif"] = exif
    if form == "GIF":
        options |= {"save_all": True, "append_images": [made.rotate(90)]}
    stream = io.BytesIO()
    made.save(stream, form, **options)
    return stream.getvalue()


def library() -> bytes:
    """A real shared library: the smallest of NumPy's own."""
    found = sorted(Path(np.__file__).parent.rglob("*.so"), key=lambda path: path.stat().st_size)
    return found[0].read_bytes()


def app() -> bytes:
    return zip_of({"AndroidManifest.xml": b"binary xml", LIBRARY: library(), "lib/x86/libreal.so": library()})


def android_library() -> bytes:
    """The shape of PyTorch's AAR, with other libraries in it."""
    return zip_of({"classes.jar": zip_of({"A.class": b"x"}), **{f"jni/x86_64/{name}": library() for name in LIBRARIES}})


def lite(seeds: Seeds) -> Path:
    return seeds.bundle / open_bundle(seeds.bundle).variant("ptl-fp32").path  # type: ignore[operator]


# --- An example of any record --------------------------------------------------------------------------------------


_PLAIN: dict[Any, Any] = {int: 1, float: 0.5, bool: True, str: "text", Any: 1}


def example_of(kind: Any) -> Any:
    """Return a value of a type by its annotations: every optional is there, every container has something in it."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return kind(**{f.name: example_of(hints[f.name]) for f in dataclasses.fields(kind)})  # type: ignore[operator]
    return _example_within(typing.get_origin(kind), typing.get_args(kind))


def _example_within(origin: Any, inner: tuple[Any, ...]) -> Any:
    if origin is typing.Literal:
        return inner[0]
    first = example_of(next(part for part in inner if part is not type(None)))
    if origin is tuple:
        return (first, first) if inner[1:] == (...,) else tuple(example_of(part) for part in inner)
    if origin is dict:
        return {"a": example_of(inner[1]), "b": example_of(inner[1])}
    return frozenset({first}) if origin is frozenset else first  # Annotated and unions: the first of what they name


def example_text(kind: type) -> bytes:
    """Return that example as a record's file holds it."""
    return to_json(example_of(kind)).encode()
