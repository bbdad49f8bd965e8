"""The training loop itself: steps, validation, the best epoch, checkpoints."""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from udacisense.base.files import remove
from udacisense.base.progress import Advance, is_live, progress
from udacisense.base.records import write_record
from udacisense.data.batches import Batch, Batches, normalise
from udacisense.errors import InputError, LoadError, TrainingError
from udacisense.measure.counts import count_macs
from udacisense.measure.metrics import inference
from udacisense.models.weights import put_state, refuse_difference
from udacisense.training.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    CheckpointState,
    load_checkpoint,
    save_checkpoint,
)
from udacisense.training.compute import will_compile
from udacisense.training.losses import EpochLosses
from udacisense.training.objective import Student, loss_of
from udacisense.training.optimizers import (
    Average,
    cosine_rate,
    laid_out,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
    plateau_state,
    rng_states,
    set_rng_states,
)
from udacisense.training.teachers import Answers, Rows
from udacisense.training.types import (
    AnyBatches,
    EpochRecord,
    History,
    Job,
    Keep,
    SizedBatches,
    Teacher,
    TrainResult,
    best_epoch,
    describe,
    on_device,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger("udacisense")

_ASK_AT_ONCE = 64  # images; a GPU is asked about many more
_ASK_A_GPU_AT_ONCE = 1024


class TrainingRun:
    """The state of one training run."""

    def __init__(self, model: nn.Module, job: Job, fabric: Fabric) -> None:
        config = job.config
        self.job, self.config, self.fabric, self.device = job, config, fabric, fabric.device
        self.is_leader = fabric.global_rank == 0
        part = (fabric.global_rank, fabric.world_size)
        self.batches = cast("SizedBatches", self._placed(job.batches, part))
        self.validation = self._placed(job.validation) if job.validation is not None else None
        is_wide = config.channels_last or self.device.type == "cuda"
        self.layout = torch.channels_last if is_wide else torch.contiguous_format
        self.original = model
        self.model = laid_out(copy.deepcopy(model).to(self.device), self.layout)
        if fabric.world_size > 1 and self.device.type == "cuda":  # a CPU's processes keep statistics of their own parts
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        self.average = Average(self.model, decay=config.ema_decay) if config.ema_decay is not None else None
        self._make_teachers()
        self.student = self._make_student()
        self.weights = self.student.named_weights()
        self.optimizer = make_optimizer(self.weights, config)
        is_compiled = will_compile(config.compute, self.device, macs=self._n_macs(), is_plain=job.before_epoch is None)
        if is_compiled and isinstance(self.batches, Batches):
            must = config.compute.compile == "on"
            self.student.compile_for(self.batches.batch_size // fabric.world_size, must=must)
        self.net, self.stepper = fabric.setup(self.student, self.optimizer, move_to_device=False)
        self.plateau: ReduceLROnPlateau | None = None
        if config.schedule == "plateau":
            self.plateau = ReduceLROnPlateau(
                self.optimizer, factor=config.plateau_factor, patience=config.plateau_patience
            )
        self.start: EpochRecord | None = None
        self.history: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}

    # ---- what it is made of

    def _placed(self, batches: AnyBatches, part: tuple[int, int] = (0, 1)) -> AnyBatches:
        if isinstance(batches, Batches):
            return batches.on(self.device, part)
        if part[1] > 1:
            raise InputError(
                "On several devices each process takes its part of a batch, and only udacisense.data.Batches can be "
                "parted; give such, or train on one device."
            )
        return batches

    def _make_teachers(self) -> None:
        """Let both teachers answer; the general one for both where the other knows some of its classes."""
        taught, auxiliary = self.job.distillation, self.job.auxiliary
        self.teacher: Answers | Teacher | None = None
        self.general: Answers | Teacher | None = None
        self.rows: Tensor | None = None  # of the general one's answers, which are the other's
        if auxiliary is not None and auxiliary.teacher is not None:
            self.general = self._answering(auxiliary.teacher, remember=auxiliary.remember)
            if taught is not None and isinstance(taught.teacher, Rows) and taught.teacher.whole is auxiliary.teacher:
                self.rows = taught.teacher.rows.to(self.device)
        if taught is not None and self.rows is None:
            self.teacher = self._answering(taught.teacher, remember=taught.remember)

    def _answering(self, teacher: Teacher, *, remember: bool) -> Answers | Teacher:
        """Return a teacher on the device; its kept answers where the batches' views come round again."""
        ready, is_gpu = on_device(teacher, self.device), self.device.type == "cuda"
        if isinstance(ready, nn.Module):
            laid_out(ready, self.layout)
        is_short = is_gpu and self.config.compute.precision != "32"

        def ask(images: Tensor) -> Tensor:
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=is_short):
                answered = ready(images)
            return answered.float().clone()  # a tensor of inference mode cannot take part in a backward pass

        if not (remember and isinstance(self.batches, Batches) and self.batches.n_rows is not None):
            return ask
        return Answers(ask, self.batches, ask_at_once=_ASK_A_GPU_AT_ONCE if is_gpu else _ASK_AT_ONCE)

    def _make_student(self) -> Student:
        auxiliary, batches = self.job.auxiliary, self.batches
        if auxiliary is None:
            return Student(self.model, {}, torch.empty(0))
        if not isinstance(batches, Batches):
            raise InputError("Auxiliary heads need udacisense.data.Batches, whose views are known; give such.")
        widths: dict[str, int] = {}
        example = normalise(batches.images.at(torch.tensor([0])).to(self.device))
        if auxiliary.folders:
            if not batches.n_folders:
                raise InputError("The batches know no folders; give transfer images in folders, or no labels of them.")
            widths["folders"] = batches.n_folders
        if auxiliary.teacher is not None:
            with torch.no_grad():
                widths["teacher"] = on_device(auxiliary.teacher, self.device)(example).shape[1]
        return Student(self.model, widths, example)

    def _n_macs(self) -> float:
        """Return the multiply-adds of all forward passes; 0 where nobody asks, or knows the images' size."""
        if not isinstance(self.batches, Batches) or self.config.compute.compile != "auto":
            return 0.0
        n_images = len(self.batches) * self.batches.batch_size * self.config.epochs
        return float(n_images) * count_macs(self.model, (1, *self.batches.images.shape))

    # ---- the loop

    def go(self) -> None:
        """Train from the first epoch that is not in the history."""
        if self.job.is_trained and self.validation is not None:
            self._count_start()
        steps, before_epoch = len(self.batches), self.job.before_epoch
        with progress("Training", self.config.epochs * steps) as advance:
            advance(len(self.history) * steps)
            for epoch in range(len(self.history), self.config.epochs):
                if self._is_stopped():
                    break
                self.net.train()
                if before_epoch is not None:
                    before_epoch(self.model, epoch)
                self._finish(self._epoch(epoch, advance))
                if self.job.after_epoch is not None:
                    self.job.after_epoch(self.history[-1])

    def _count_start(self) -> None:
        """Let the weights at the start be chosen, as epoch 0."""
        model = laid_out(copy.deepcopy(self.original).to(self.device), self.layout)
        loss, top1 = self._validate(-1, model)
        self.start = EpochRecord(
            epoch=0, train_loss=math.nan, validation_loss=loss, validation_top1_fraction=top1, lr=0.0, duration_s=0.0
        )
        if self._best_epoch == 0:
            self.best = {k: v.detach().cpu().clone() for k, v in self.original.state_dict().items()}

    def _epoch(self, epoch: int, advance: Advance) -> EpochRecord:
        start, note = time.perf_counter(), describe(self.history[-1:])
        set_epoch = getattr(self.batches, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        for teacher in (self.teacher, self.general):
            if isinstance(teacher, Answers):
                teacher.prepare(advance)
        losses = EpochLosses(self.device, epoch)
        for step, given in enumerate(self.batches):
            self._set_lr(epoch, step)
            losses.add(self._step(given), len(given[1]), self._lr)
            advance(1, note=note)
        train_loss = losses.mean(self.fabric)
        loss_v, top1 = self._validate(epoch, self._candidate())
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

    def _step(self, given: tuple[Tensor, Tensor]) -> Tensor:
        """Take one step; return the batch's mean loss, on the device."""
        batch = self._moved(given)
        loss = self.student.compiled_or_not(lambda: self._gradients(batch))
        self.stepper.step()
        if self.average is not None:
            self.average.update()
        return loss

    def _gradients(self, batch: Batch) -> Tensor:
        """Leave a batch's gradients with the weights; return its mean loss."""
        answers = self.net(batch[0])
        if batch.highest >= answers[0].shape[1]:
            raise InputError(
                f"The model answers {answers[0].shape[1]} classes, but a label is {batch.highest} (from 0); "
                "build it with the data's number of classes."
            )
        general = self._taught(self.general, batch)
        taught = self._taught(self.teacher, batch)
        if self.rows is not None and general is not None:
            taught = general[:, self.rows]
        loss = loss_of(answers, batch, self.job, taught, general)
        self.stepper.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        return loss.detach()

    def _moved(self, given: tuple[Tensor, Tensor]) -> Batch:
        """Return a batch on the device, in the layout of the weights."""
        images, labels = given
        details = vars(given) if isinstance(given, Batch) else {"highest": int(labels.max())}
        return Batch(images.to(device=self.device, memory_format=self.layout), labels.to(self.device), **details)

    @staticmethod
    def _taught(teacher: Answers | Teacher | None, batch: Batch) -> Tensor | None:
        if not isinstance(teacher, Answers):
            return teacher(batch[0]) if teacher is not None else None
        assert batch.rows is not None
        return teacher[batch.rows]

    def _validate(self, epoch: int, model: nn.Module) -> tuple[float | None, float | None]:
        """Return mean cross-entropy and top-1 on the validation batches.

        The first process looks; all are told.
        """
        if self.validation is None:
            return None, None
        figures = torch.zeros(3, dtype=torch.float64, device=self.device)
        if self.is_leader:
            with inference(model):
                for images, labels in self.validation:
                    logits, wanted = model(images.to(self.device)), labels.to(self.device)
                    figures[0] += F.cross_entropy(logits, wanted, reduction="sum")
                    figures[1] += (logits.argmax(1) == wanted).sum()
                    figures[2] += len(labels)
        if self.fabric.world_size > 1:
            torch.distributed.broadcast(figures, 0)
        total, hits, n_images = figures.tolist()
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
        start = [] if self.start is None else [self.start]
        return best_epoch([*start, *self.history], select_by=self.config.select_by) or 0

    def _candidate(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _finish(self, epoch: EpochRecord) -> None:
        """Keep the epoch's record, its weights if they are the best, and the checkpoint."""
        self.history.append(epoch)
        if self._best_epoch == epoch.epoch:
            self.best = {k: v.detach().cpu().clone() for k, v in self._candidate().state_dict().items()}
        if not self.is_leader:
            return
        if not is_live(sys.stderr):
            log.info("%s (%.1f s)", describe([epoch], of=self.config.epochs), epoch.duration_s)
        if self.job.keep is not None:
            self._save(self.job.keep)

    def _is_stopped(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and len(self.history) - self._best_epoch >= patience

    def result(self) -> TrainResult:
        """Return the best weights in a copy of the model that was given, on the CPU."""
        trained = copy.deepcopy(self.original).cpu().eval()
        put_state(trained, self.best)
        return TrainResult(trained, History(epochs=tuple(self.history), best_epoch=self._best_epoch))

    # ---- checkpoints

    def open(self, keep: Keep) -> None:
        """Take up the checkpoint that is there, or drop it."""
        path = keep.folder / CHECKPOINT_NAME
        if not keep.resume:
            if self.is_leader:
                remove(path)
            return
        found = load_checkpoint(keep.folder, identity=keep.identity, former=keep.former)
        if found is None:
            return
        try:
            self._take_up(found)
        # What torch raises where the rest of its names, shapes or types are not this run's.
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as exc:
            raise LoadError(
                f"{path} is not what this model and optimiser leave ({type(exc).__name__}: {exc}); "
                "remove it, or train without resuming."
            ) from exc

    def _take_up(self, found: Checkpoint) -> None:
        for name in ("model", "best"):  # the best weights are loaded at the end, too late to say that they do not fit
            refuse_difference(found.group(name), self.model.state_dict(), source=f"the checkpoint ({name})")
        put_state(self.model, found.group("model"))
        put_state(self.student.heads, found.group("heads"))
        self.best = found.group("best")
        self.history = list(found.state.history)
        if self.average is not None:
            self.average.load(found.group("ema"))
        load_optimizer(self.optimizer, self.weights, found.group("optimizer"))
        for group in self.optimizer.param_groups:
            group["lr"] = found.state.lr
        if self.plateau is not None:
            self.plateau.load_state_dict(dict(found.state.scheduler))  # type: ignore[no-untyped-call]
        if self.is_leader:  # the others' were not kept; the same ones everywhere would drop out the same units
            set_rng_states(self.device, found.group("rng"))

    def _save(self, keep: Keep) -> None:
        state = CheckpointState(
            schema_version=1,
            identity=dict(keep.identity),
            history=tuple(self.history),
            best_epoch=self._best_epoch,
            lr=self._lr,
            scheduler=plateau_state(self.plateau),
        )
        groups = {
            "model": self.model.state_dict(),
            "heads": self.student.heads.state_dict(),
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer, self.weights),
            "rng": rng_states(self.device),
            "ema": {} if self.average is None else self.average.state(),
        }
        save_checkpoint(keep.folder, state, groups)
        write_record(keep.folder / History.FILE_NAME, History(epochs=state.history, best_epoch=state.best_epoch))
