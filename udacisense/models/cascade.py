"""A cascade of artifacts: its thresholds chosen on held-back images, and ``cascade.json`` beside its members."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from udacisense.base.files import atomic_path
from udacisense.base.records import Artifact, Confidence, Signature, read_json, write_record
from udacisense.data.batches import evaluation_batches
from udacisense.data.images import Images
from udacisense.errors import InputError, LoadError
from udacisense.measure.cascade import (
    Answers,
    Cascade,
    Figure,
    Member,
    Wish,
    choose,
    draw_curve,
    median_time,
    proportion,
    try_thresholds,
)
from udacisense.measure.confidence import IntArray, fit_confidence, probabilities
from udacisense.measure.metrics import predict
from udacisense.measure.recording import latencies_by_turns
from udacisense.models.artifact import load_artifact
from udacisense.zoo.table import ZOO, resolve_artifact, zoo_folder

_MEMBERS = "members"
_MOST_MEMBERS = 3


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that may become a member."""

    name: str
    place: Path  # the artifact's folder, or the name of a model that ships
    artifact: Artifact
    model: nn.Module


def candidates(places: Sequence[Path], *, allow_factory: str | None = None) -> tuple[Candidate, ...]:
    """Load the members of a cascade to be.

    Raises:
        InputError: fewer than two or more than three, one twice, or they do not take the same images and answer the
            same classes.
    """
    if not 2 <= len(places) <= _MOST_MEMBERS:
        raise InputError(f"A cascade has 2 to {_MOST_MEMBERS} members, from small to large; given: {len(places)}.")
    made: list[Candidate] = []
    for place in places:
        artifact, model = load_artifact(place, allow_factory=allow_factory)
        if any(artifact.sha256 == one.artifact.sha256 for one in made):
            raise InputError(f"{place} has the weights of a member before it: who is asked twice answers the same.")
        names = [one.name for one in made]
        name = artifact.name if artifact.name not in names else f"{artifact.name}-{len(made) + 1}"
        made.append(Candidate(name=name, place=place, artifact=artifact, model=model))
        if artifact.signature != made[0].artifact.signature:
            raise InputError(
                f"{place} takes other images or answers other classes than {places[0]}: the members of a cascade see "
                "the same photo and speak of the same labels, mean and std."
            )
    return tuple(made)


def make_cascade(
    members: Sequence[Candidate], *, held_back: Images, test: Images, data: str, wish: Wish, name: str
) -> Cascade:
    """Choose the thresholds of a cascade on images that were held back, and report them on the test images.

    Args:
        members: in the order of asking.
        held_back: no member was fitted on them.
        test: for the figures alone.
        data: what the images are called.
        wish: what to choose for.
        name: of the cascade.

    Raises:
        InputError: no thresholds fulfil the wish.
    """
    signature = members[0].artifact.signature
    seen, labels = _logits(members, held_back, signature)
    unseen, test_labels = _logits(members, test, signature)
    fitted = [one.artifact.confidence or fit_confidence(x, labels) for one, x in zip(members, seen, strict=True)]
    times = [median_time(r) for r in latencies_by_turns([one.model for one in members], signature.input_shape)]
    chosen_on, reported_on = _answers(seen, labels, fitted), _answers(unseen, test_labels, fitted)
    chosen = choose(curve := draw_curve(chosen_on, times), wish)
    alone = [proportion(found.argmax(axis=1) == test_labels) for found in unseen]
    kept = zip(members, fitted, [*chosen.thresholds, None], times, alone, strict=True)
    return Cascade(
        schema_version=1,
        name=name,
        rule="margin",
        members=tuple(
            Member(
                name=one.name,
                artifact=_member_place(one),
                sha256=one.artifact.sha256,
                confidence=confidence,
                threshold=limit,
                latency_ms=time,
                top1_fraction=top1,
            )
            for one, confidence, limit, time, top1 in kept
        ),
        wish=wish,
        data=data,
        n_held_back=len(labels),
        n_test=len(test_labels),
        curve=curve,
        chosen=chosen,
        test=try_thresholds(reported_on, chosen.thresholds, times),
        notes=(*told_order(members, times), *_notes(members, chosen_on, reported_on)),
    )


def _logits(members: Sequence[Candidate], images: Images, signature: Signature) -> tuple[list[np.ndarray], IntArray]:
    batches = evaluation_batches(images, signature)
    return [predict(one.model, batches)[0].numpy() for one in members], images.labels.numpy()


def _answers(logits: Sequence[np.ndarray], labels: IntArray, fitted: Sequence[Confidence]) -> Answers:
    found = [probabilities(one, own.temperature) for one, own in zip(logits, fitted, strict=True)]
    return Answers(probabilities=found, labels=labels)


def told_order(members: Sequence[Candidate], times: Sequence[Figure]) -> list[str]:
    """Say which member takes longer than the one that it is to spare."""
    rows = list(zip(members, times, strict=True))
    return [
        f"{one.name} takes {own.value:.3g} ms and {other.name} {spared.value:.3g} ms; give {other.name} first, since a "
        "cascade asks the fast one first"
        for (one, own), (other, spared) in itertools.pairwise(rows)
        if own.low > spared.high
    ]


def _notes(members: Sequence[Candidate], chosen_on: Answers, reported_on: Answers) -> list[str]:
    """Say what speaks against the held-back images: nothing shows that they were, or answers that are too good."""
    notes = []
    for one, seen, unseen in zip(members, chosen_on.probabilities, reported_on.probabilities, strict=True):
        if one.artifact.confidence is None:
            notes.append(
                f"{one.name}: nothing shows that it was not fitted on the images that the thresholds were chosen on; "
                "'train' and 'compress' hold a tenth of the training images back, and this artifact does not say so"
            )
        there = proportion(seen.argmax(axis=1) == chosen_on.labels)
        here = proportion(unseen.argmax(axis=1) == reported_on.labels)
        if there.low > here.high:
            notes.append(
                f"{one.name} is right on {100 * there.value:.1f} % of the held-back and {100 * here.value:.1f} % of "
                "the test images, more than chance explains: it, or its teacher, has seen them. Trust the test figures"
            )
    return notes


def _member_place(one: Candidate) -> str:
    """Return where a cascade keeps a member: a model that ships stays where it is, under its name."""
    return str(one.place) if str(one.place) in ZOO and not one.place.exists() else f"{_MEMBERS}/{one.name}"


def save_cascade(folder: Path, cascade: Cascade, members: Sequence[Candidate]) -> None:
    """Write a cascade with copies of its members, as one folder, which appears whole or not at all.

    Args:
        folder: where to write; a cascade that is already there is replaced.
        cascade: the record.
        members: that it was made of.

    Raises:
        InputError: the folder holds something else.
    """
    if (
        folder.exists()
        and not (folder / Cascade.FILE_NAME).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise InputError(f"{folder} is there and holds no cascade; give a new folder for it.")
    with atomic_path(folder) as partial:
        partial.mkdir()
        for member, one in zip(cascade.members, members, strict=True):
            if member.artifact not in ZOO:
                target = partial / member.artifact
                target.mkdir(parents=True)
                for name in (Artifact.FILE_NAME, one.artifact.path):
                    shutil.copy(one.place / name, target / name)
        write_record(partial / Cascade.FILE_NAME, cascade)


def read_cascade(root: Path) -> Cascade:
    """Read the record of a cascade's folder.

    Raises:
        InputError: it is none, or its members contradict each other.
    """
    path = root / Cascade.FILE_NAME
    cascade = read_json(Cascade, path)
    members, names = cascade.members, {member.name for member in cascade.members}
    if not 2 <= len(members) <= _MOST_MEMBERS or len(names) < len(members):
        raise InputError(
            f"{path} has {len(members)} members; a cascade has 2 to {_MOST_MEMBERS}, each of another name."
        )
    if any((member.threshold is None) != (member is members[-1]) for member in members):
        raise InputError(f"{path} is not valid: every member but the last has a threshold.")
    return cascade


def is_cascade(folder: Path) -> bool:
    """Tell whether a folder, or a name of what ships, is a cascade."""
    return (resolve_artifact(folder) / Cascade.FILE_NAME).is_file()


def model_folders(folder: Path) -> tuple[Path, ...]:
    """Return the artifact's folder of each member of a cascade; of one model, its own. Nothing is checked but places.

    Raises:
        InputError: a cascade's record is not valid, or a member leaves its folder.
    """
    root = resolve_artifact(folder)
    if not is_cascade(folder):
        return (root,)
    return tuple(_place(root, member) for member in read_cascade(root).members)


def _place(root: Path, member: Member) -> Path:
    if member.artifact in ZOO:
        return zoo_folder(member.artifact)
    if member.artifact != f"{_MEMBERS}/{Path(member.name).name}":
        raise InputError(
            f"{root / Cascade.FILE_NAME} keeps its member {member.name} at {member.artifact!r}; a member is a "
            f"model that ships, or lies in {_MEMBERS}/ under its name."
        )
    return root / member.artifact


def load_cascade(folder: Path, *, allow_factory: str | None = None) -> tuple[Cascade, tuple[Path, ...]]:
    """Read a cascade and check its members.

    Returns:
        The record, and the artifact's folder of each member.

    Raises:
        InputError: it is no cascade, or a member leaves the folder, is missing or takes other images.
        LoadError: a member's weights are not those that the cascade records.
    """
    root = resolve_artifact(folder)
    cascade = read_cascade(root)
    places = []
    for member in cascade.members:
        place = _place(root, member)
        found, _ = load_artifact(place, allow_factory=allow_factory)
        if found.sha256 != member.sha256:
            raise LoadError(
                f"The weights of {member.name} are not those that the cascade {root} was made of; make it again with "
                "'udacisense cascade'."
            )
        places.append(place)
    return cascade, tuple(places)
