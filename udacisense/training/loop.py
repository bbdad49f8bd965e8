"""The training loop itself: steps, validation, the best epoch, checkpoints."""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from udacisense.base.files import remove
from udacisense.base.progress import Advance, is_live, progress
from udacisense.base.records import Scalar, write_record
from udacisense.errors import InputError, LoadError, TrainingError
from udacisense.measure.metrics import inference
from udacisense.models.weights import refuse_difference
from udacisense.training.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    CheckpointState,
    load_checkpoint,
    save_checkpoint,
)
from udacisense.training.losses import distillation_loss
from udacisense.training.optimizers import (
    cosine_rate,
    laid_out,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
    plateau_state,
    rng_states,
    set_rng_states,
)
from udacisense.training.types import (
    Distillation,
    EpochRecord,
    History,
    SizedBatches,
    TrainConfig,
    TrainResult,
    best_epoch,
    describe,
)

log = logging.getLogger("udacisense")


class TrainingRun:
    """The state of one training run."""

    def __init__(
        self,
        model: nn.Module,
        *,
        batches: SizedBatches,
        config: TrainConfig,
        validation: Iterable[tuple[Tensor, Tensor]] | None,
        distillation: Distillation | None,
        device: torch.device,
    ) -> None:
        self.config, self.batches, self.validation, self.device = config, batches, validation, device
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = laid_out(copy.deepcopy(model).to(device), self.layout)
        self.distillation = distillation
        self.teacher = distillation.on_device(device) if distillation is not None else None
        self.optimizer = make_optimizer(self.model, config)
        self.plateau: ReduceLROnPlateau | None = None
        if config.schedule == "plateau":
            self.plateau = ReduceLROnPlateau(
                self.optimizer, factor=config.plateau_factor, patience=config.plateau_patience
            )
        self.ema: AveragedModel | None = None
        if config.ema_decay is not None:
            average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.history: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}
        self.folder: Path | None = None
        self.identity: Mapping[str, Scalar] = {}

    # ---- the loop

    def go(self, before_epoch: Callable[[nn.Module, int], None] | None) -> None:
        """Train from the first epoch that is not in the history."""
        steps = len(self.batches)
        with progress("Training", self.config.epochs * steps) as advance:
            advance(len(self.history) * steps)
            for epoch in range(len(self.history), self.config.epochs):
                if self._is_stopped():
                    break
                self.model.train()
                if before_epoch is not None:
                    before_epoch(self.model, epoch)
                self._finish(self._epoch(epoch, advance))

    def _epoch(self, epoch: int, advance: Advance) -> EpochRecord:
        start = time.perf_counter()
        set_epoch = getattr(self.batches, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        total, n_images, note = 0.0, 0, describe(self.history[-1:])
        for step, (images, labels) in enumerate(self.batches):
            self._set_lr(epoch, step)
            loss = self._step(images, labels, epoch, step)
            total, n_images = total + loss * len(labels), n_images + len(labels)
            advance(1, note=note)
        loss_v, top1 = self._validate(epoch)
        train_loss = total / n_images
        lr = self._lr
        if self.plateau is not None:
            self.plateau.step(loss_v if loss_v is not None else train_loss)
        return EpochRecord(
            epoch=epoch + 1,
            train_loss=train_loss,
            validation_loss=loss_v,
            validation_top1_fraction=top1,
            lr=lr,
            duration_s=time.perf_counter() - start,
        )

    def _step(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> float:
        """Take one step; return the batch's mean loss."""
        images = images.to(device=self.device, memory_format=self.layout)
        loss = self._loss(images, labels.to(self.device))
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss is {value} in epoch {epoch + 1}, step {step + 1}, at learning rate {self._lr:.3g}; "
                "lower the learning rate, or look for images or weights that are not finite."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return value

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        if int(labels.max()) >= logits.shape[1]:
            raise InputError(
                f"The model answers {logits.shape[1]} classes, but a label is {int(labels.max())} (from 0); "
                "build it with the data's number of classes."
            )
        smoothing = self.config.label_smoothing
        if self.teacher is None or self.distillation is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        with torch.inference_mode():
            answered = self.teacher(images)
        return distillation_loss(
            logits,
            answered.clone(),  # a tensor of inference mode cannot take part in a backward pass; its copy can
            labels,
            temperature=self.distillation.temperature,
            alpha=self.distillation.alpha,
            label_smoothing=smoothing,
        )

    def _validate(self, epoch: int) -> tuple[float | None, float | None]:
        """Return mean cross-entropy and top-1 on the validation batches, of the averaged weights where kept."""
        if self.validation is None:
            return None, None
        model = self._candidate()
        total, hits, n_images = 0.0, 0, 0
        with inference(model):
            for images, labels in self.validation:
                logits, wanted = model(images.to(self.device)), labels.to(self.device)
                total += F.cross_entropy(logits, wanted, reduction="sum").item()
                hits += int((logits.argmax(1) == wanted).sum())
                n_images += len(labels)
        if n_images == 0:
            raise InputError("There are no validation images; give some, or train without validation.")
        if not math.isfinite(total):
            raise TrainingError(
                f"The validation loss is {total} after epoch {epoch + 1}, at learning rate {self._lr:.3g}; "
                "lower the learning rate."
            )
        return total / n_images, hits / n_images

    # ---- the learning rate

    @property
    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _set_lr(self, epoch: int, step: int) -> None:
        config = self.config
        if config.schedule != "cosine":
            return
        steps = len(self.batches)
        rate = cosine_rate(
            epoch * steps + step, total=config.epochs * steps, warmup=round(config.warmup_epochs * steps)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * rate

    # ---- what an epoch leaves

    @property
    def _best_epoch(self) -> int:
        return best_epoch(self.history, select_by=self.config.select_by) or 0

    def _candidate(self) -> nn.Module:
        return self.model if self.ema is None else self.ema.module

    def _finish(self, epoch: EpochRecord) -> None:
        """Keep the epoch's record, its weights if they are the best, and the checkpoint."""
        self.history.append(epoch)
        if self._best_epoch == epoch.epoch:
            self.best = {k: v.detach().cpu().clone() for k, v in self._candidate().state_dict().items()}
        if not is_live(sys.stderr):
            log.info("%s (%.1f s)", describe([epoch], of=self.config.epochs), epoch.duration_s)
        if self.folder is not None:
            self._save(self.folder)

    def _is_stopped(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and len(self.history) - self._best_epoch >= patience

    def result(self) -> TrainResult:
        """Return the best weights in a module on the CPU."""
        self.model.load_state_dict(self.best)
        trained = laid_out(self.model.cpu().eval(), torch.contiguous_format)
        return TrainResult(trained, History(epochs=tuple(self.history), best_epoch=self._best_epoch))

    # ---- checkpoints

    def open(self, folder: Path, identity: Mapping[str, Scalar], *, resume: bool) -> None:
        """Keep checkpoints in ``folder``; take up the one that is there, or drop it."""
        self.folder, self.identity = folder, identity
        if not resume:
            remove(folder / CHECKPOINT_NAME)
            return
        found = load_checkpoint(folder, identity=identity)
        if found is None:
            return
        try:
            self._take_up(found)
        # What torch raises where the rest of its names, shapes or types are not this run's.
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as exc:
            raise LoadError(
                f"{folder / CHECKPOINT_NAME} is not what this model and optimiser leave ({type(exc).__name__}: {exc}); "
                "remove it, or train without resuming."
            ) from exc

    def _take_up(self, found: Checkpoint) -> None:
        for name in ("model", "best"):  # the best weights are loaded at the end, too late to say that they do not fit
            refuse_difference(found.group(name), self.model.state_dict(), source=f"the checkpoint ({name})")
        self.model.load_state_dict(found.group("model"))
        self.best = found.group("best")
        self.history = list(found.state.history)
        if self.ema is not None:
            self.ema.load_state_dict(found.group("ema"))
        load_optimizer(self.optimizer, self.model, found.group("optimizer"))
        for group in self.optimizer.param_groups:
            group["lr"] = found.state.lr
        if self.plateau is not None:
            self.plateau.load_state_dict(dict(found.state.scheduler))  # type: ignore[no-untyped-call]
        set_rng_states(self.device, found.group("rng"))

    def _save(self, folder: Path) -> None:
        state = CheckpointState(
            schema_version=1,
            identity=dict(self.identity),
            history=tuple(self.history),
            best_epoch=self._best_epoch,
            lr=self._lr,
            scheduler=plateau_state(self.plateau),
        )
        groups = {
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer, self.model),
            "rng": rng_states(self.device),
            "ema": {} if self.ema is None else self.ema.state_dict(),
        }
        save_checkpoint(folder, state, groups)
        write_record(folder / History.FILE_NAME, History(epochs=state.history, best_epoch=state.best_epoch))
