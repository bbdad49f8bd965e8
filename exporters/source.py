"""What is exported: a model with its signature, calibration images and golden images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from exporters.check import check_classifier, refuse_other_forms
from udacisense.base.files import sha256_file
from udacisense.base.records import Artifact, Confidence, ModelSpec, Scalar, Signature
from udacisense.data.batches import normalise
from udacisense.data.images import Images, make_signature, stratified_draw, turns
from udacisense.errors import InputError
from udacisense.measure.confidence import margins
from udacisense.models.artifact import load_artifact
from udacisense.models.build import build_model, preset
from udacisense.models.layers import MOST_PX
from udacisense.models.libraries import network_facts
from udacisense.models.weights import TRAINED, initialise, load_state, plain_state
from udacisense.pipeline.recipes import short_name
from udacisense.zoo.table import resolve_artifact

if TYPE_CHECKING:
    from udacisense.data.images import DataSet

GOLDEN_COUNT = 32
_DRAWN = 8  # so many times as many are drawn
_LARGE_PX = 96  # from this edge on, a golden pack of 32 float32 inputs weighs more than the model
_LARGE_GOLDEN_COUNT = 8
MAX_CALIBRATION = 512
_PROBES = 3  # images that a user's model answers before anything is written
_TRAINED_CLASSES = 1000  # of a library's network without data: ImageNet's, of its trained weights
_GOLDEN_SEED = 20
_CALIBRATION_SEED = 21


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """One model, ready to be exported."""

    name: str
    model: nn.Module  # float32, evaluation mode, on the CPU: normalised images to logits
    spec: ModelSpec
    signature: Signature
    calibration: Images | None  # None: no data set was given, so nothing can be calibrated
    golden: Images
    golden_is_drawn: bool  # pictures made by this program: their labels mean nothing
    artifact_sha256: str  # of the weights
    artifact_folder: Path | None
    confidence: Confidence | None = None

    def weights(self) -> dict[str, Tensor]:
        """Return the state that ``spec`` builds a model for, each tensor with memory of its own."""
        return plain_state(self.model)


def source_from_artifact(folder: Path, dataset: DataSet | None, *, allow_factory: str | None = None) -> ExportSource:
    """Take an artifact's model.

    Args:
        folder: of the artifact, or the name of a model that ships.
        dataset: calibration and golden images are drawn from its training images. Without one the golden pack is
            drawn by this program, and static int8 is skipped.
        allow_factory: the ``package.module:factory`` that may be imported, where the artifact is built by one.

    Raises:
        InputError: the folder is no artifact, or the data set has another size or other classes.
        LoadError: the weights are not those that the artifact records.
    """
    folder = resolve_artifact(folder)
    artifact, model = load_artifact(folder, allow_factory=allow_factory)
    source = make_source(
        name=short_name(artifact.name),
        model=model,
        spec=artifact.model,
        signature=artifact.signature,
        dataset=dataset,
    )
    return replace(
        source,
        artifact_folder=folder,
        artifact_sha256=sha256_file(folder / artifact.path),
        confidence=artifact.confidence,
    )


def source_from_factory(
    factory: str,
    input_shape: tuple[int, int, int, int],
    dataset: DataSet | None,
    *,
    options: Mapping[str, Scalar] | None = None,
    init: str = "none",
    class_names: Sequence[str] | None = None,
    name: str | None = None,
) -> ExportSource:
    """Take a network by name: ``torchvision/NAME``, ``timm/NAME``, or a user's own ``package.module:factory``.

    A factory runs that module's code. It is fed by ImageNet's mean and std, a library's network by its own.

    Args:
        factory: called with ``options``; returns an ``nn.Module`` from (N, 3, H, W) to (N, C).
        input_shape: (N, 3, H, W) with H = W.
        dataset: as in :func:`source_from_artifact`.
        options: of the factory, or of the library's function.
        init: ``none`` takes the model as it is built; ``pretrained`` a library's trained weights; else a file with the
            model's state.
        class_names: in output order; None takes the data set's, or else ``class 0``, ``class 1``, ...
        name: of the bundle; None takes the factory's own.

    Raises:
        InputError: the factory, the shape or the number of classes is not what is needed.
        LoadError: the weights belong to another model.
    """
    size_px, names = _square(input_shape), class_names or (dataset.class_names if dataset else None)
    classes = len(names) if names else _TRAINED_CLASSES
    spec = preset(factory, num_classes=classes, size_px=size_px, options=options or {})
    facts = network_facts(spec)

    def build(seed: int = 1) -> nn.Module:
        torch.manual_seed(seed)
        made = build_model(spec)
        refuse_other_forms(made)  # some of which have no evaluation mode
        return made.eval()

    model = build(0)  # without weights they are drawn: the same ones each time
    plain_state(model)  # refuses lazy layers, whose weights cannot be loaded
    _take_weights(model, init, spec)
    # Of unlike brightness: what is taken over the whole batch differs from what is taken over one.
    drawn = drawn_images(_PROBES, size_px).pixels // torch.arange(1, _PROBES + 1, dtype=torch.uint8).view(-1, 1, 1, 1)
    probes = normalise(drawn, mean=facts.mean, std=facts.std)
    count = check_classifier(model, build, probes)
    signature = make_signature(_labels(count, names), size_px=size_px, mean=facts.mean, std=facts.std)
    name = name or re.split("[:/]", factory)[-1]
    return make_source(name=name, model=model, spec=spec, signature=signature, dataset=dataset)


def _take_weights(model: nn.Module, init: str, spec: ModelSpec) -> None:
    if init in TRAINED:
        initialise(model, init, spec)
    elif init != "none":
        load_state(model, Path(init), pickled=True)


def _square(input_shape: tuple[int, int, int, int]) -> int:
    """Return the edge of the images that a shape is of."""
    if len(input_shape) != 4 or input_shape[1] != 3 or input_shape[2] != input_shape[3] or min(input_shape) < 1:
        raise InputError(f"The input shape is {input_shape}; allowed is (N, 3, H, W) with H = W, such as 1,3,224,224.")
    if input_shape[2] > MOST_PX:
        raise InputError(f"The images are {input_shape[2]} px; allowed is up to {MOST_PX}.")
    return input_shape[2]


def make_source(
    *, name: str, model: nn.Module, spec: ModelSpec, signature: Signature, dataset: DataSet | None
) -> ExportSource:
    """Take a model that is in memory; ``spec`` must build one with the same state.

    Raises:
        InputError: the data set has another image size or other classes than the signature.
    """
    state = plain_state(model.eval())
    count = GOLDEN_COUNT if signature.size_px < _LARGE_PX else _LARGE_GOLDEN_COUNT
    calibration = None
    if dataset is None:
        golden = golden_without_photos(model, signature, count)
    else:
        _refuse_other_data(dataset, signature)
        golden = stratified_draw(dataset.train, min(count, len(dataset.train)), seed=_GOLDEN_SEED)
        calibration = stratified_draw(dataset.train, min(MAX_CALIBRATION, len(dataset.train)), seed=_CALIBRATION_SEED)
    return ExportSource(
        name=name,
        model=model,
        spec=spec,
        signature=signature,
        calibration=calibration,
        golden=golden,
        golden_is_drawn=dataset is None,
        artifact_sha256=hashlib.sha256(save(state)).hexdigest(),
        artifact_folder=None,
    )


def golden_without_photos(model: Callable[[Tensor], Tensor], signature: Signature, count: int) -> Images:
    """Return drawn images that the model is sure about, of each class that it answers in turn.

    Its decision on an image that it is not sure of says nothing of a file.
    """
    drawn = _photo_like(_DRAWN * count, signature.size_px)
    inputs = normalise(drawn.pixels, mean=signature.mean, std=signature.std)
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in torch.split(inputs, 1)]).nan_to_num()
    surest = torch.from_numpy(margins(logits.numpy())).argsort(descending=True, stable=True)
    place = torch.empty_like(surest)
    place[surest] = turns(logits.argmax(dim=1)[surest])
    return drawn.take(place.argsort(stable=True)[:count].sort().values)


def _photo_like(count: int, size_px: int) -> Images:
    """Draw noise whose amplitude falls with frequency, as that of photographs does (Field 1987), each with a cast."""
    generator = torch.Generator().manual_seed(_GOLDEN_SEED)
    rows, columns = torch.fft.fftfreq(size_px)[:, None], torch.fft.rfftfreq(size_px)[None, :]
    amplitude = (rows**2 + columns**2).clamp_min(1 / size_px**2) ** -0.5
    amplitude[0, 0] = 0.0
    noise = torch.randn(count, 3, size_px, size_px, generator=generator)
    waves = torch.fft.irfft2(torch.fft.rfft2(noise) * amplitude, s=(size_px, size_px))
    waves = waves / waves.std(dim=(2, 3), keepdim=True).clamp_min(1e-6)
    # Brightness, and two colours that vary less.
    colours = torch.tensor([[1.0, 0.35, 0.15], [1.0, 0.0, -0.3], [1.0, -0.35, 0.15]])
    light = 0.5 + 0.12 * torch.randn(count, 1, 1, 1, generator=generator)
    cast = 0.2 * torch.randn(count, 3, 1, 1, generator=generator)
    pixels = 0.15 * torch.einsum("rc,nchw->nrhw", colours, waves) + light + cast
    return Images((pixels.clamp(0, 1) * 255).round().to(torch.uint8), torch.zeros(count, dtype=torch.int64))


def drawn_images(count: int, size_px: int) -> Images:
    """Draw soft colour patches, repeatably: something to replay where there are no photographs."""
    generator = torch.Generator().manual_seed(_GOLDEN_SEED)
    patches = torch.rand((count, 3, 5, 5), generator=generator)
    pixels = F.interpolate(patches, size=(size_px, size_px), mode="bicubic", align_corners=False)
    return Images((pixels.clamp(0, 1) * 255).round().to(torch.uint8), torch.zeros(count, dtype=torch.int64))


def _refuse_other_data(dataset: DataSet, signature: Signature) -> None:
    edge = dataset.size_px
    if edge != signature.size_px:
        raise InputError(f"The model takes {signature.size_px} px images and the data set was loaded at {edge} px.")
    if dataset.class_names != signature.labels:
        raise InputError(
            f"The data set {dataset.name} has the classes {', '.join(dataset.class_names[:5])}, ... and the model"
            f" answers {', '.join(signature.labels[:5])}, ...; give the data set that it was trained on."
        )


def _labels(count: int, class_names: Sequence[str] | None) -> tuple[str, ...]:
    if class_names is None:
        return tuple(f"class {i}" for i in range(count))
    if len(class_names) != count:
        raise InputError(f"The model answers {count} classes and there are {len(class_names)} class names.")
    return tuple(class_names)


def artifact_record(source: ExportSource) -> Artifact | None:
    """Return the artifact's own record, where the source is one."""
    from udacisense.base.records import read_json

    if source.artifact_folder is None:
        return None
    return read_json(Artifact, source.artifact_folder / Artifact.FILE_NAME)
