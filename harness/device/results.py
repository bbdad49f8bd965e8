"""The app's answers: read strictly, held against the bundle they are said to be of, made into the desk's records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from exporters.bundle.open import Bundle, bundle_sha256
from harness.bench.advice import recommendations
from harness.bench.cells import cell_id
from harness.bench.ranking import rank
from harness.bench.run import describe_bundles
from harness.device.contract import RUNNER, Command
from harness.records import BenchCell, BenchRun, BenchSet, Budget, HostState, Measurement, MeasurementSet
from udacisense.base.records import Outcome, from_json, read_json
from udacisense.errors import InputError

KINDS: dict[str, Command] = {"verify": "selftest", "bench": "bench"}
USE_COUNTS = ("none_of_these", "answered", "asked")  # Measurement.actual: each within the next
_ROUND = "round"  # Measurement.actual: rounds are numbered from 0
_NOTES = (
    "measured by the demo app in one process of the phone: loads after the first find the runtime warm",
    "no eager model runs on a phone, so there is no speed-up against it",
)


class OtherBundleError(InputError):
    """A result is sound, and of another bundle."""


def read_result(text: bytes, bundle: Bundle, *, source: str) -> MeasurementSet:
    """Read what the app wrote.

    Args:
        text: the file's bytes.
        bundle: that the result must be of.
        source: where the text came from, for messages.

    Raises:
        OtherBundleError: it is of another bundle.
        InputError: it is damaged, or it says something that cannot be of this bundle.
    """
    made = from_json(MeasurementSet, text, source=source)
    sha256 = bundle_sha256(bundle.root)
    if made.bundle_sha256 != sha256:
        raise OtherBundleError(
            f"{source} is of another bundle ({made.bundle}, {made.bundle_sha256[:12]}…; given: "
            f"{bundle.manifest.name}, {sha256[:12]}…): run 'udacisense device push {bundle.root}' and measure again."
        )
    if not made.measurements:
        raise InputError(f"{source} holds no measurement; nothing was tried, so nothing passed.")
    exported = {variant.id for variant in bundle.exported()}
    for m in made.measurements:
        problem = _problem(m, made.kind, exported)
        if problem is not None:
            raise InputError(f"{source}: the row of {m.spec.variant_id} {problem}; update the app and measure again.")
    return made


def _problem(m: Measurement, kind: str, exported: set[str]) -> str | None:
    if m.spec.variant_id not in exported:
        return "is no variant of this bundle"
    if m.spec.runner != RUNNER:
        return f"is by the runner {m.spec.runner!r}, and the app's is {RUNNER!r}"
    if m.outcome is not Outcome.PASSED:
        return None if m.reason else f"is {m.outcome} and gives no reason"
    if kind == "verify" and (m.comparison is None or m.comparison.n_inputs < 1):
        return "passed and compared nothing"
    if kind != "verify" and (m.timing is None or not m.timing.samples_ms):
        return "passed and timed nothing"
    return _miscounted(m) if kind == "use" else None


def _miscounted(m: Measurement) -> str | None:
    counts = [m.actual.get(name) for name in USE_COUNTS]
    numbers = [n for n in counts if isinstance(n, int) and not isinstance(n, bool)]
    if numbers == counts and numbers == sorted(numbers) and numbers[0] >= 0:
        return None
    return f"has {counts} as {', '.join(USE_COUNTS)}"


def check_answers(made: MeasurementSet, command: Command, variants: Sequence[str], *, source: str) -> None:
    """Refuse an answer to another order.

    Raises:
        InputError: it is of the other kind, or a variant that was asked for is not in it.
    """
    if (answered := KINDS.get(made.kind, made.kind)) != command:
        raise InputError(f"{source} answers a {answered}, and a {command} was asked for; update the app.")
    missing = [name for name in variants if name not in {m.spec.variant_id for m in made.measurements}]
    if missing:
        raise InputError(f"{source} says nothing of {', '.join(missing)}, which was asked for; update the app.")


def read_verifications(folders: Iterable[Path], name: str) -> list[MeasurementSet]:
    """Read what `verify`, `device selftest` and `device pull` kept of the bundle of this name in some folders.

    Raises:
        InputError: a record is damaged.
    """
    found = [path for folder in dict.fromkeys(folders) if folder.is_dir() for path in sorted(folder.iterdir())]
    ending = ".verify.json"
    mine = [path for path in found if path.name.startswith(f"{name}.") and path.name.endswith(ending)]
    return [read_json(MeasurementSet, path) for path in mine]


def to_bench_set(
    made: MeasurementSet,
    bundle: Bundle,
    *,
    verifications: Iterable[MeasurementSet] | None = None,
    allow_factory: str | None = None,
) -> BenchSet:
    """Make a phone's measurements into a sweep's record, which report, gate and ``bench --compare`` take.

    Round 0 stands for the tune rounds where there are more: thread counts are chosen on it, figures come from the
    others. There is no reference: the eager model does not run on a phone.

    Args:
        made: of kind ``bench``; see :func:`read_result`.
        bundle: that it is of.
        verifications: what failed there is not recommended. None: the record recommends nothing.
        allow_factory: see :func:`exporters.bundle.reference.load_reference`.

    Raises:
        InputError: a row has no round.
    """
    sources, cascades = describe_bundles([bundle], allow_factory=allow_factory)
    whose = {variant.id: (sources[0].bundle.name, variant.id) for variant in bundle.manifest.variants}
    for member in (member for cascade in cascades for member in cascade.members):
        whose |= {joined: (member.bundle, own) for own, joined in member.variants.items()}
    cells = [_cell(m, *whose[m.spec.variant_id], bundle) for m in made.measurements]
    rounds = [_round(m, made.bundle) for m in made.measurements]
    n_rounds = max(rounds) + 1
    measured = BenchSet(
        schema_version=2,
        kind="bench",
        created_utc=made.created_utc,
        host=made.host,
        seed=made.seed,
        budget=_budget(made.measurements[0], n_rounds),
        bundles=tuple(source.bundle for source in sources),
        reference="",
        ceilings=(),
        cells=tuple({cell.id: cell for cell in cells}.values()),
        runs=tuple(
            _run(m, cell.id, number, n_rounds) for m, cell, number in zip(made.measurements, cells, rounds, strict=True)
        ),
        recommended=(),
        notes=_NOTES,
        complete=True,
        cascades=tuple(cascades),
    )
    if verifications is None:
        return measured
    return dataclasses.replace(measured, recommended=recommendations(measured, rank(measured), verifications))


def _round(m: Measurement, bundle: str) -> int:
    number = m.actual.get(_ROUND)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise InputError(f"The bench of {bundle}: a row of {m.spec.variant_id} has no round; update the app.")
    return number


def _cell(m: Measurement, name: str, own_id: str, bundle: Bundle) -> BenchCell:
    variant, spec = bundle.variant(m.spec.variant_id), m.spec
    return BenchCell(
        id=cell_id(name, own_id, spec.engine, spec.threads, spec.batch_size),
        bundle=name,
        variant_id=own_id,
        format=variant.format,
        precision=variant.precision,
        file_bytes=variant.file_bytes,
        runner=spec.runner,
        engine=spec.engine,
        threads=spec.threads,
        batch_size=spec.batch_size,
        skip_reason=None,
    )


def _run(m: Measurement, cell: str, number: int, n_rounds: int) -> BenchRun:
    state = HostState(load_average=None, frequency_mhz=None, temperature_c=None)  # thermal status: in m.actual
    timing = m.timing
    calls_ms = 0.0 if timing is None else timing.load_ms + sum(timing.samples_ms) * timing.calls_per_sample
    return BenchRun(
        cell_id=cell,
        round=number,
        phase="tune" if number == 0 and n_rounds > 1 else "report",
        duration_s=calls_ms / 1e3,
        before=state,
        after=state,
        actual=m.actual,
        timing=timing,
        wrong_answers=None,
        warnings=m.warnings,
        outcome=m.outcome,
        reason=m.reason,
        peak_rss_bytes=None,
    )


def _budget(m: Measurement, n_rounds: int) -> Budget:
    spec = m.spec
    return Budget(
        name=RUNNER,
        tune_rounds=1 if n_rounds > 1 else 0,
        report_rounds=n_rounds - 1 if n_rounds > 1 else 1,
        final_rounds=0,
        memory="leaders",
        warmup=spec.warmup,
        min_samples=spec.min_samples,
        min_s=spec.min_s,
        max_s=spec.max_s,
        timeout_s=spec.timeout_s,
    )
