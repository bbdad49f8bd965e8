"""Accuracy, size, latency, and the statistics that say how sure a figure is."""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from udacisense.base.records import Confidence, ShiftAccuracy, record
from udacisense.base.tensors import torchscript_bytes
from udacisense.errors import InputError
from udacisense.measure.confidence import fit_confidence
from udacisense.measure.timing import collect_samples


@record
class Evaluation:
    """Accuracy of a classifier on labelled images."""

    top1_fraction: float
    top5_fraction: float  # top min(5, C)
    per_class: dict[str, float]  # label -> top-1 fraction, its recall; a class without images is left out
    confusion: tuple[tuple[int, ...], ...]  # [true class][predicted class] -> images
    n_images: int
    macro_fraction: float | None = None  # mean of per_class, each class counting alike; None in records of 0.1.0
    shifts: tuple[ShiftAccuracy, ...] | None = None  # None: not asked for


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients, and every submodule's mode back afterwards.

    Works for eager, quantised, scripted and frozen modules (a frozen one has no mode to change).
    """
    training = [module for module in model.modules() if getattr(module, "training", False)]
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def predict(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return logits, float32 (n, C), and labels, int64 (n,), of all batches, on the CPU, in their order.

    Raises:
        InputError: there is no image at all.
    """
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    with inference(model):
        for images, labels in batches:
            outputs.append(model(images.to(device)).float().cpu())
            targets.append(labels.cpu())
    if not outputs:
        raise InputError("There are no images to evaluate on.")
    return torch.cat(outputs), torch.cat(targets)


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    class_names: Sequence[str],
    *,
    device: str | torch.device = "cpu",
) -> Evaluation:
    """Evaluate a classifier; its training mode is left as it was.

    Args:
        model: maps float32 (b, 3, H, W) to logits (b, C); eager, quantised or ScriptModule; already on ``device``.
        batches: pairs of images and int64 labels (b,).
        class_names: the C labels in output order.
        device: where the images are sent.

    Raises:
        InputError: there are no images, or the model has another number of classes.
    """
    return score(*predict(model, batches, device=device), class_names)


def score(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> Evaluation:
    """Return the accuracy of answers that :func:`predict` gave.

    Args:
        logits: float32 (n, C), n > 0.
        labels: int64 (n,).
        class_names: the C labels in output order.

    Raises:
        InputError: the model has another number of classes.
    """
    classes = len(class_names)
    if logits.shape[1] != classes:
        raise InputError(f"The model answers {logits.shape[1]} classes and the data set has {classes}.")
    predicted = logits.argmax(1)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    top5 = (logits.topk(min(5, classes), dim=1).indices == labels[:, None]).any(1)
    totals, hits = confusion.sum(1), confusion.diagonal()
    recalls = {name: int(hits[i]) / int(totals[i]) for i, name in enumerate(class_names) if totals[i]}
    return Evaluation(
        top1_fraction=int(hits.sum()) / len(labels),
        top5_fraction=int(top5.sum()) / len(labels),
        macro_fraction=sum(recalls.values()) / len(recalls),
        per_class=recalls,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        n_images=len(labels),
    )


def confidence_of(model: nn.Module, held_back: Iterable[tuple[Tensor, Tensor]]) -> Confidence:
    """Fit a model's temperature and threshold on batches that were held back from its training; see there.

    Raises:
        InputError: there are no images.
    """
    logits, labels = predict(model, held_back)
    return fit_confidence(logits.numpy(), labels.numpy())


def state_bytes(module: nn.Module) -> int:
    """Return the bytes that a model takes on disk.

    An eager module (float or quantised) is its ``torch.save``-d state dict, a ScriptModule its ``.pt`` file.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return len(torchscript_bytes(module))
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    return stream.getbuffer().nbytes


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: on several, threads that wait for a busy core make a call many times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def median_latency_ms(module: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Return the median time of one call on the CPU, in milliseconds, in this process.

    Ten warm-up calls, then at least 30 samples over at least 0.5 s (at most 10 s) on one thread: a quick figure for a
    stage table. The harness measures in processes of their own.

    Args:
        module: on the CPU; its training mode is left as it was.
        input_shape: (N, 3, H, W); the values fed are seeded standard normal.
    """
    images = torch.randn(input_shape, generator=torch.Generator().manual_seed(0))
    with inference(module), one_thread():
        samples = collect_samples(lambda: module(images), warmup=10, min_samples=30, min_s=0.5, max_s=10.0)
    return statistics.median(samples.samples_ms)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a fraction (Wilson 1927), as (low, high).

    Raises:
        InputError: ``n`` is not positive, or ``successes`` is not in 0..n.
    """
    from scipy.stats import binomtest

    if n < 1 or not 0 <= successes <= n:
        raise InputError(f"An interval needs 0 ≤ successes ≤ n and n ≥ 1, got {successes} of {n}.")
    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947; exact binomial form).

    Args:
        correct_a: bool (n,), whether model A was right on each image.
        correct_b: the same of model B on the same images in the same order.

    Returns:
        The probability, were both models equally good, of a split of the images that only one of them got right
        at least as uneven as this one. 1.0 where they are right on the same images.

    Raises:
        InputError: the two do not pair up, or are empty.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise InputError(f"McNemar's test pairs two answers an image, got shapes {a.shape} and {b.shape}.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def scale_of(answers: NDArray[np.float32]) -> float:
    """Return what an absolute tolerance is multiplied by: 1 where all answers together have a range of 1 to 100.

    Below, the range: of a network that answers in millionths, 0.001 would let everything pass. Above, a hundredth of
    it: float32 itself rounds answers in billions by hundreds. 1 where one of them is not finite.
    """
    span = float(answers.max()) - float(answers.min())
    if not np.isfinite(span):
        return 1.0
    return min(1.0, span) if span < 100 else span / 100
