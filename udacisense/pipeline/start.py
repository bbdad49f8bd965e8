"""What a pipeline starts from: a trained model, and batches of the data that it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from udacisense.base.records import Artifact, ModelSpec, Signature
from udacisense.data.batches import Batches
from udacisense.data.images import DataSet, Images, images_sha256, make_signature
from udacisense.errors import InputError
from udacisense.models.artifact import load_artifact
from udacisense.pipeline.run import OptimizationPipeline
from udacisense.training import EVALUATION_BATCH, training_split
from udacisense.training.transfer import TransferBatches


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A trained model with what tells how to build and feed it."""

    model: nn.Module
    spec: ModelSpec
    signature: Signature
    artifact: Artifact | None  # None: it came from memory

    def test_batches(self, dataset: DataSet) -> Batches:
        """Return the test images as the model takes them."""
        signature = self.signature
        return Batches(dataset.test, batch_size=EVALUATION_BATCH, mean=signature.mean, std=signature.std)


def load_baseline(
    baseline: Path | tuple[nn.Module, ModelSpec], dataset: DataSet, *, allow_factory: str | None = None
) -> Baseline:
    """Return the baseline, and refuse data that it was not made for.

    Args:
        baseline: an artifact's folder, or a trained model with its spec.
        dataset: what it is to be used with.
        allow_factory: the one ``package.module:factory`` that the artifact's record may import.

    Raises:
        InputError: the data has other classes, or another size.
        LoadError: the artifact's weights are not those that were recorded.
    """
    size_px = int(dataset.train.pixels.shape[-1])
    if not isinstance(baseline, Path):
        model, spec = baseline
        signature = make_signature(dataset.class_names, size_px=size_px)
        return Baseline(model=model, spec=spec, signature=signature, artifact=None)
    artifact, model = load_artifact(baseline, allow_factory=allow_factory)
    signature = artifact.signature
    if signature.labels != dataset.class_names:
        raise InputError(
            f"The data set {dataset.name} has the classes {', '.join(dataset.class_names)}, but {baseline} was trained "
            f"for other classes, {', '.join(signature.labels)}; give the data that the baseline was made for."
        )
    if signature.size_px != size_px:
        raise InputError(
            f"The images were loaded at {size_px} px, but {baseline} takes {signature.size_px}; load them at that size."
        )
    return Baseline(model=model, spec=artifact.model, signature=signature, artifact=artifact)


def start_pipeline(
    name: str,
    baseline: Baseline,
    dataset: DataSet,
    *,
    batch_size: int,
    seed: int,
    transfer: Images | None = None,
    transfer_ratio: float = 3.0,
    mix: float = 0.0,
) -> OptimizationPipeline:
    """Return a pipeline without steps: the training images split 9 : 1 for selection, the test images for figures.

    Args:
        name: what people call it.
        baseline: what it starts from.
        dataset: the images.
        batch_size: of training.
        seed: of the run.
        transfer: unlabelled images that are mixed into the training batches.
        transfer_ratio: of them, for each labelled image in an epoch.
        mix: fraction of these batches' images that are blended with another one; it needs ``transfer``.
    """
    signature = baseline.signature
    scaled = partial(Batches, mean=signature.mean, std=signature.std)
    images, held_back = training_split(dataset)
    train: Batches | TransferBatches = scaled(images, batch_size=batch_size, shuffle=True, augment=True, seed=seed)
    identity = f"{dataset.fingerprint} batch_size={batch_size}"
    if transfer is not None:
        identity += f" transfer={images_sha256(transfer)} ratio={transfer_ratio}" + (f" mix={mix}" if mix else "")
        train = TransferBatches(
            images,
            transfer,
            batch_size=batch_size,
            ratio=transfer_ratio,
            mix=mix,
            seed=seed,
            mean=signature.mean,
            std=signature.std,
        )
    return OptimizationPipeline(
        name,
        baseline.model,
        train,
        baseline.test_batches(dataset),
        dataset.class_names,
        signature.size_px,
        validation_loader=scaled(held_back, batch_size=EVALUATION_BATCH),
        spec=baseline.spec,
        signature=signature,
        seed=seed,
        data_fingerprint=identity,
    )
