"""Equal workers on one study: each asks for a trial, runs it and tells what came of it.

Optuna's heartbeats belong to ``Study.optimize`` and to databases alone: its documentation says that they do not work
with ``ask`` and ``tell``, and a journal has none. So a running trial bears a count that its worker raises, in any
storage. A trial whose count stood still for ``grace_s`` by another worker's own clock is queued again; no two machines'
clocks are compared. A trial is told once, whoever runs it: storages refuse to change a finished one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import ExperimentalWarning, TrialPruned, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from udacisense.errors import InputError, TrainingError, UdacisenseError

log = logging.getLogger("udacisense")

Run = Callable[[optuna.Trial], float]
OPEN = (TrialState.RUNNING, TrialState.WAITING)
_ALIVE, _KEY, _ANSWER, _ERROR, _UNTRAINED = "alive", "key", "answer", "error", "untrained"
_MOST_RETRIES = 3  # of a trial whose workers were killed: it may be what kills them
_MOST_UNTRAINED = 500  # in a row: the limits leave nothing
_BEATS_IN_GRACE = 6
_POLL_S = 1.0


class UntrainedError(Exception):
    """A trial's network is not worth training; says why."""


@dataclass(kw_only=True)
class Worker:
    """One of the equal workers on a study."""

    study: optuna.Study
    grace_s: float  # after which the trial of a worker that gives no sign is queued again
    before_ask: Callable[[int], object] = int  # called with the number of trials; int: nothing to do
    seen: dict[int, tuple[int, float]] = field(default_factory=dict)  # trial → its count, and when it was new

    def work(self, run: Run, *, wanted: int = 0) -> None:
        """Run what is queued, and new trials until so many are trained; return when nobody runs one any more.

        Args:
            run: trains a trial and returns its value. What it raises: ``TrialPruned``, :class:`UntrainedError` (the
                trial does not count), ``TrainingError`` (it counts as failed); anything else queues the trial again and
                ends this worker.
            wanted: trained trials that the study shall have, queued ones included.

        Raises:
            InputError: the limits leave nothing to train, or the storage went away.
        """
        while True:
            self._retake()
            trials = self.study.get_trials(deepcopy=False)
            if len(trials) - len(list(counted(trials))) > _MOST_UNTRAINED + 20 * wanted:
                raise InputError(f"Of the last {len(trials)} networks none keeps the limits; loosen them.")
            if any(trial.state is TrialState.WAITING for trial in trials) or len(list(counted(trials))) < wanted:
                self._one(run, wanted)
            elif any(trial.state is TrialState.RUNNING for trial in trials):
                time.sleep(_POLL_S)
            else:
                return

    def _one(self, run: Run, wanted: int) -> None:
        self.before_ask(len(self.study.get_trials(deepcopy=False)))
        trial = self.study.ask()
        before = list(counted(self.study.get_trials(deepcopy=False)[: trial.number]))
        if (
            _KEY not in trial.user_attrs and len(before) >= wanted
        ):  # another worker took the last one at the same moment
            self._tell(trial, state=TrialState.FAIL)
            return
        try:
            with self._beating(trial):
                value = run(trial)
        except TrialPruned:
            self._tell(trial, state=TrialState.PRUNED)
        except UntrainedError as exc:
            trial.set_user_attr(_UNTRAINED, str(exc))
            self._tell(trial, state=TrialState.PRUNED)
        except UpdateFinishedTrialError:
            log.warning("trial %d was given to another worker; what it found here is dropped", trial.number)
        except TrainingError as exc:
            if exc.exit_code != TrainingError.exit_code:  # bad input, which the next trial would meet as well
                self._give_back(trial)
                raise
            log.warning("trial %d failed: %s", trial.number, exc)
            trial.set_user_attr(_ERROR, str(exc))
            self._tell(trial, state=TrialState.FAIL)
        except BaseException:
            self._give_back(trial)
            raise
        else:
            self._tell(trial, value=value)

    def _tell(self, trial: optuna.Trial, *, value: float | None = None, state: TrialState | None = None) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):
            self.study.tell(trial, value, state=state, skip_if_finished=True)

    def _give_back(self, trial: optuna.Trial) -> None:
        with contextlib.suppress(UdacisenseError):  # the storage has gone; another worker will see that nobody runs it
            self._queue_again(self.study.get_trials(deepcopy=False)[trial.number], most=None)

    # ---- signs of life

    @contextlib.contextmanager
    def _beating(self, trial: optuna.Trial) -> Iterator[None]:
        ended = threading.Event()

        def beat() -> None:
            count = int(trial.user_attrs.get(_ALIVE, 0))
            with contextlib.suppress(UpdateFinishedTrialError, UdacisenseError):
                while True:
                    count += 1
                    trial.set_user_attr(_ALIVE, count)
                    if ended.wait(self.grace_s / _BEATS_IN_GRACE):
                        return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _retake(self) -> None:
        """Queue trials again whose workers have given no sign for the time of grace."""
        now = time.monotonic()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            count = int(trial.user_attrs.get(_ALIVE, 0))
            last = self.seen.get(trial.number)
            if last is None or last[0] != count:
                self.seen[trial.number] = (count, now)
            elif now - last[1] > self.grace_s:
                log.warning(
                    "the worker of trial %d gave no sign for %g s; it is queued again", trial.number, self.grace_s
                )
                self._queue_again(trial, most=_MOST_RETRIES)

    def _queue_again(self, trial: FrozenTrial, *, most: int | None) -> None:
        try:
            self.study.tell(trial.number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):
            return  # another worker was faster
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            RetryHeartbeatStaleTrialCallback(max_retry=most)(self.study, trial)


def claim(trial: optuna.Trial, key: str) -> None:
    """Give a trial the text of what it tries.

    Raises:
        UntrainedError: an earlier trial tries, or has tried, the same.
    """
    trial.set_user_attr(_KEY, key)
    for other in trial.study.get_trials(deepcopy=False)[: trial.number]:
        if other.user_attrs.get(_KEY) == key and is_taken(other):
            raise UntrainedError(f"the same as trial {other.number}")


def key_of(trial: FrozenTrial | optuna.Trial) -> str | None:
    """Return the text of what a trial tries."""
    found: str | None = trial.user_attrs.get(_KEY)
    return found


def error_of(trial: FrozenTrial) -> str | None:
    """Return why a trial's training failed; None where it did not."""
    found: str | None = trial.user_attrs.get(_ERROR)
    return found


def is_trained(trial: FrozenTrial) -> bool:
    """Tell whether a trial has been trained, to its end or not."""
    if trial.state is TrialState.PRUNED:
        return _UNTRAINED not in trial.user_attrs
    return trial.state is TrialState.COMPLETE or _ERROR in trial.user_attrs


def is_taken(trial: FrozenTrial) -> bool:
    """Tell whether a trial is queued, running, or trained without a failure: nobody needs to try the same again."""
    return trial.state in OPEN or (is_trained(trial) and _ERROR not in trial.user_attrs)


def counted(trials: Iterable[FrozenTrial]) -> Iterator[FrozenTrial]:
    """Yield the trials that are trained, or being trained."""
    return (trial for trial in trials if trial.state is TrialState.RUNNING or is_trained(trial))


def share(study: optuna.Study, keys: Sequence[str], run: Callable[[str], str], *, grace_s: float) -> dict[str, str]:
    """Run points of a grid, each once, by all workers that do the same; return what each answered.

    Args:
        study: theirs alone.
        keys: the points, as text.
        run: answers a point with text, which is kept in the study.
        grace_s: see :class:`Worker`.

    Returns:
        Answers by point, in the order of ``keys``.

    Raises:
        TrainingError: a point failed.
    """
    queued = {key_of(trial) for trial in study.get_trials(deepcopy=False) if is_taken(trial)}
    for key in keys:
        if key not in queued:
            study.enqueue_trial({}, user_attrs={_KEY: key})

    def answered(trial: optuna.Trial) -> float:
        key = str(key_of(trial))
        claim(trial, key)
        trial.set_user_attr(_ANSWER, run(key))
        return 0.0

    Worker(study=study, grace_s=grace_s).work(answered)
    trials = [trial for trial in study.get_trials(deepcopy=False) if key_of(trial) in keys]
    done = {str(key_of(t)): str(t.user_attrs[_ANSWER]) for t in trials if t.state is TrialState.COMPLETE}
    for key in keys:
        if key not in done:
            why = next(
                (error for t in trials if key_of(t) == key and (error := error_of(t))), "its workers were killed"
            )
            raise TrainingError(f"{key} failed: {why.rstrip('.')}.")
    return {key: done[key] for key in keys}
