from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from pathlib import Path

import optuna
import postgres
import pytest
from optuna.trial import TrialState

from udacisense.errors import InputError, TrainingError
from udacisense.pipeline.search.storage import open_storage, open_study
from udacisense.pipeline.search.work import UntrainedError, Worker, claim, counted, is_trained, share

TASK = {"data": "colours", "epochs": 3}
GRACE_S = 2.0


def opened(url: str, *, wait_s: float = 5.0, task: dict[str, object] = TASK) -> optuna.Study:
    return open_study(open_storage(url, Path("unused"), wait_s=wait_s), "search", task)


def worker(study: optuna.Study) -> Worker:
    return Worker(study=study, grace_s=GRACE_S)


def told(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def slow_worker(url: str, wanted: int, log: str, pause_s: float) -> None:
    def run(trial: optuna.Trial) -> float:
        with Path(log).open("a") as stream:
            stream.write(f"{trial.number}\n")
        x = trial.suggest_float("x", 0, 1)
        time.sleep(pause_s)
        return x

    worker(opened(url)).work(run, wanted=wanted)


def start(url: str, wanted: int, log: Path, pause_s: float) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=slow_worker, args=(url, wanted, str(log), pause_s))
    process.start()
    return process


def begun(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("study_url", ["journal", "postgresql"], indirect=True)
def test_two_workers_share_a_study_and_one_killed_loses_nothing(study_url: str, tmp_path: Path) -> None:
    victim = start(study_url, 6, tmp_path / "victim", 60.0)
    while not begun(tmp_path / "victim"):
        assert victim.is_alive()
        time.sleep(0.05)
    time.sleep(0.2)  # it has chosen, too
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    slow_worker(study_url, 6, str(tmp_path / "heir"), 0.0)
    trials = opened(study_url).get_trials(deepcopy=False)
    lost = trials[begun(tmp_path / "victim")[0]]
    again = [trial for trial in trials if trial.user_attrs["alive"] and trial.params == lost.params]
    assert [trial.state for trial in again] == [TrialState.FAIL, TrialState.COMPLETE], "the same choices, tried again"
    done = [trial.number for trial in trials if trial.state is TrialState.COMPLETE]
    assert len(done) == 6
    assert sorted(begun(tmp_path / "heir")) == done, "each was run once, by the one that lives"


def test_two_workers_at_once_train_as_many_as_were_asked_for(study_url: str, tmp_path: Path) -> None:
    arguments = (study_url, 8, str(tmp_path / "other"), 0.05)
    other = threading.Thread(target=slow_worker, args=arguments)
    other.start()
    slow_worker(study_url, 8, str(tmp_path / "mine"), 0.05)
    other.join()
    trials = opened(study_url).get_trials(deepcopy=False)
    assert len([trial for trial in trials if is_trained(trial)]) == 8
    ran = begun(tmp_path / "mine") + begun(tmp_path / "other")
    assert len(ran) == len(set(ran)) == 8


def test_a_trial_that_was_given_to_another_worker_is_told_once(tmp_path: Path) -> None:
    study = opened(str(tmp_path / "j"))
    mine = worker(study)

    def taken_away(trial: optuna.Trial) -> float:
        x = told(trial)
        if trial.number == 0:
            mine._queue_again(study.get_trials(deepcopy=False)[0], most=3)
        return x

    mine.work(taken_away, wanted=1)
    first, second = study.get_trials(deepcopy=False)
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.params == second.params


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("no disk"), TrainingError("StageError's")])
def test_what_ends_a_worker_leaves_its_trial_to_the_next(tmp_path: Path, error: BaseException) -> None:
    study = opened(str(tmp_path / "j"))
    if isinstance(error, TrainingError):
        error.exit_code = 2  # bad input, met inside a pipeline

    def broken(trial: optuna.Trial) -> float:
        told(trial)
        raise error

    with pytest.raises(type(error)):
        worker(study).work(broken, wanted=1)
    left = study.get_trials(deepcopy=False)
    assert [trial.state for trial in left] == [TrialState.FAIL, TrialState.WAITING]
    worker(study).work(told, wanted=1)
    assert study.get_trials(deepcopy=False)[1].params == left[0].params


def test_a_training_that_fails_counts_and_the_next_goes_on(tmp_path: Path) -> None:
    study = opened(str(tmp_path / "j"))

    def run(trial: optuna.Trial) -> float:
        if trial.number == 0:
            raise TrainingError("the loss is nan")
        if trial.number == 1:
            raise UntrainedError("too large")
        if trial.number == 2:
            raise optuna.TrialPruned
        return 1.0

    worker(study).work(run, wanted=3)
    trials = study.get_trials(deepcopy=False)
    assert [trial.number for trial in counted(trials)] == [0, 2, 3]
    assert trials[0].user_attrs["error"] == "the loss is nan"


def test_limits_that_leave_nothing_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udacisense.pipeline.search.work._MOST_UNTRAINED", 2)

    def never(trial: optuna.Trial) -> float:
        raise UntrainedError("too large")

    with pytest.raises(InputError, match="none keeps the limits"):
        worker(opened(str(tmp_path / "j"))).work(never, wanted=1)


def test_a_study_of_another_task_is_refused(study_url: str) -> None:
    opened(study_url)
    with pytest.raises(InputError, match=r"another task, with epochs = 3 \(now 5\); give"):
        opened(study_url, task={**TASK, "epochs": 5})


def test_points_are_shared_once_each_and_answers_travel(study_url: str) -> None:
    ran: list[str] = []

    def take_part() -> dict[str, str]:
        def run(key: str) -> str:
            ran.append(key)
            time.sleep(0.05)
            return json.dumps({"of": key})

        return share(opened(study_url), ["a", "b", "c", "d"], run, grace_s=GRACE_S)

    answers: list[dict[str, str]] = []
    other = threading.Thread(target=lambda: answers.append(take_part()))
    other.start()
    answers.append(take_part())
    other.join()
    assert sorted(ran) == ["a", "b", "c", "d"]
    assert answers[0] == answers[1] == {key: json.dumps({"of": key}) for key in "abcd"}
    assert take_part() == answers[0]
    assert len(ran) == 4, "what is finished is not run again"


def test_a_failed_point_is_named_and_tried_again_by_the_next_command(tmp_path: Path) -> None:
    study = opened(str(tmp_path / "j"))
    is_broken = True

    def run(key: str) -> str:
        if is_broken and key == "b":
            raise TrainingError("the loss is nan.")
        return key

    with pytest.raises(TrainingError, match="b failed: the loss is nan"):
        share(study, ["a", "b", "c"], run, grace_s=GRACE_S)
    is_broken = False
    assert share(study, ["a", "b", "c"], run, grace_s=GRACE_S) == {"a": "a", "b": "b", "c": "c"}


def test_the_same_network_is_not_trained_twice(tmp_path: Path) -> None:
    study = opened(str(tmp_path / "j"))

    def run(trial: optuna.Trial) -> float:
        claim(trial, "the same" if trial.number < 2 else str(trial.number))
        return told(trial)

    worker(study).work(run, wanted=2)
    trials = study.get_trials(deepcopy=False)
    assert [is_trained(trial) for trial in trials] == [True, False, True]
    assert trials[1].user_attrs["untrained"] == "the same as trial 0"


def test_a_storage_that_comes_back_is_waited_for(server: postgres.Server) -> None:
    study = opened(server.new_database("back"), wait_s=60.0)

    def run(trial: optuna.Trial) -> float:
        if trial.number == 1:
            server.stop()
            threading.Timer(1.5, server.start).start()
        return told(trial)

    worker(study).work(run, wanted=3)
    assert [trial.state for trial in study.get_trials(deepcopy=False)] == [TrialState.COMPLETE] * 3


def test_a_study_of_another_task_shows_what_differs(tmp_path: Path) -> None:
    data, journal = "0123456789abcdef" * 4, str(tmp_path / "journal")
    opened(journal, task={"data": data})
    with pytest.raises(
        InputError, match=r"with data = 0123456789ab… \(now 0123456789ab… augment=none\); give the same"
    ):
        opened(journal, task={"data": f"{data} augment=none"})


def test_a_journal_on_a_full_disk_is_waited_for_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = opened(str(tmp_path / "journal"), wait_s=1.0)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "journal").stat().st_size, hard))
    try:
        for _ in range(2):
            with pytest.raises(
                InputError, match=r"has not answered for 1 s \(.*File too large.*the same command goes on"
            ):
                study.set_user_attr("more", "than fits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sum("waiting for it" in record.getMessage() for record in caplog.records) == 1


def test_a_storage_that_stays_away_is_one_sentence(server: postgres.Server) -> None:
    study = opened(server.new_database("gone"), wait_s=1.0)

    def run(trial: optuna.Trial) -> float:
        server.stop()
        return told(trial)

    try:
        with pytest.raises(InputError, match=r"postgresql\S+ has not answered for 1 s \(.*the same command goes on"):
            worker(study).work(run, wanted=1)
    finally:
        server.start()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("nothing://x", "cannot be opened|driver|no URL"),
        ("sqlite:////nowhere/at/all.db", "cannot be opened .*is no folder"),
        ("postgresql://me:secret@127.0.0.1:1/db", r"me:\*\*\*@.*cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_said_at_once(url: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        opened(url)
    assert "secret" not in str(caught.value)
