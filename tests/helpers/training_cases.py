"""Small real models and learnable images that the tests of training, stages and pipelines share."""

from __future__ import annotations

from pathlib import Path

import torch

from udacisense.base.records import ModelSpec, StageRecord
from udacisense.data.batches import Batches
from udacisense.data.images import DataSet, Images, make_signature
from udacisense.measure.recording import record_stage
from udacisense.models.artifact import save_artifact
from udacisense.models.build import build_model, preset
from udacisense.stages.contract import StepContext

CLASSES = ("red", "green", "blue")
SIZE_PX = 16


def tiny_spec() -> ModelSpec:
    return preset("tiny", num_classes=3, resolution_px=SIZE_PX, size_px=SIZE_PX)


def mobilenet_spec(name: str = "baseline") -> ModelSpec:
    return preset(name, num_classes=3, resolution_px=32, size_px=SIZE_PX)


def build(spec: ModelSpec, *, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return build_model(spec).eval()


def trained_like(spec: ModelSpec) -> torch.nn.Module:
    """A model whose batch normalisation has seen data, so that activations are of usual size."""
    model = build(spec).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain mean over what it saw
    with torch.no_grad():
        model(torch.randn(64, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(2)))
    return model.eval()


def coloured(n: int, *, seed: int) -> Images:
    """Noise in which one channel, the class's, is brighter."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 150, (n, 3, SIZE_PX, SIZE_PX), generator=generator)
    labels = torch.arange(n) % 3
    pixels[torch.arange(n), labels] += 100
    return Images(pixels.to(torch.uint8), labels)


def dataset(*, n_train: int = 60, n_test: int = 30) -> DataSet:
    return DataSet("colours", CLASSES, coloured(n_train, seed=1), coloured(n_test, seed=2))


def batches(n: int = 48, *, seed: int = 0) -> Batches:
    return Batches(coloured(n, seed=1), batch_size=16, shuffle=True, augment=True, seed=seed)


def held_back(n: int = 24) -> Batches:
    return Batches(coloured(n, seed=3), batch_size=24)


def step_context(train: Batches) -> StepContext:
    """What a step is given that trains on these images, keeps nothing and begins anew."""
    return StepContext(
        train=train,
        validation=held_back(),
        class_names=CLASSES,
        input_shape=(1, 3, SIZE_PX, SIZE_PX),
        seed=0,
        fingerprint="f",
        work_dir=None,
        resume=False,
    )


def figures(*, file_bytes: int = 1000, latency_ms: float = 10.0, top1: float = 0.887) -> StageRecord:
    return StageRecord(
        stage="s",
        config={},
        duration_s=0.0,
        file_bytes=file_bytes,
        parameters=1,
        nonzero_parameters=1,
        top1_fraction=top1,
        top5_fraction=1.0,
        per_class={},
        latency_ms=latency_ms,
        n_eval_images=1000,
    )


def small_baseline(folder: Path, *, seed: int = 0) -> Path:
    """An untrained MobileNetV3 kept as an artifact, measured on the coloured images; its folder."""
    spec = mobilenet_spec()
    model = build(spec, seed=seed)
    signature = make_signature(CLASSES, size_px=SIZE_PX)
    figures = record_stage(
        model,
        stage="baseline",
        config={},
        duration_s=0.0,
        test=held_back(),
        class_names=CLASSES,
        input_shape=signature.input_shape,
    )
    save_artifact(
        folder, name="small", model=model, spec=spec, signature=signature, baseline=figures, stages=(), seed=0
    )
    return folder
