"""Records of the harness: what was run, what was compared, what was timed, what was decided."""

from __future__ import annotations

from typing import Literal

from udacisense.base.records import Count, Fraction, Outcome, Positive, Scalar, ShiftAccuracy, record


@record
class RunSpec:
    """One cell of a sweep, run in a process of its own."""

    variant_id: str
    runner: str  # row of harness.runners.table.RUNNERS
    engine: str | None  # asked of the runtime: PyTorch's quantised engine, onnxruntime's graph optimisation level
    threads: Count
    batch_size: Count
    warmup: Count
    min_samples: Count
    min_s: float
    max_s: float
    timeout_s: float
    seed: Count


@record
class Host:
    """Fingerprint of the machine that measured. Records of unlike hosts are never compared."""

    system: str
    machine: str
    cpu: str
    physical_cores: int
    logical_cores: int
    memory_bytes: int
    governor: str | None
    load_average: float | None  # None where it is hidden, as phones hide it
    python: str
    libraries: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None
    gpu: str | None = None  # that PyTorch can use


@record
class HostState:
    """What changes on a host while it measures; None where it does not show it."""

    load_average: float | None
    frequency_mhz: float | None
    temperature_c: float | None


@record
class Flip:
    """An image whose top-1 label differs from the float32 master's, or whose answer is not finite."""

    index: int
    reference_label: int
    label: int
    reference_margin: float  # top-1 minus top-2 logit of the master: small is noise, large is a bug


@record
class Certainty:
    """How sure a variant is of its answers, beside the float32 master: probabilities at the manifest's temperature."""

    temperature: Positive | None  # 1 where none was fitted; None of a cascade: each member's own
    threshold: Fraction | None  # margin of the best two probabilities below which nothing is answered; 0: all is
    mean_moved: Fraction  # mean over the images of |p - the master's p| of the class that the master answers
    most_moved: Fraction
    answered_fraction: Fraction
    reference_answered_fraction: Fraction
    answered_top1_fraction: Fraction | None  # of the answered; None without labels, or where nothing was answered
    reference_answered_top1_fraction: Fraction | None
    calibration_error: Fraction | None  # expected calibration error, 15 bins; None without labels
    reference_calibration_error: Fraction | None
    log_loss: float | None  # mean negative log-likelihood of the true class; None without labels
    reference_log_loss: float | None


@record
class Unknown:
    """Photos of other things: how often one is taken for a class, at the manifest's threshold."""

    n_images: Count
    taken_fraction: Fraction
    taken_low: Fraction  # Wilson 95 % interval
    taken_high: Fraction
    reference_taken_fraction: Fraction  # by the float32 master


@record
class Shifts:
    """The test images as phones take them."""

    n_images: Count  # each under every shift and severity
    accuracy: tuple[ShiftAccuracy, ...]
    reference_accuracy: tuple[ShiftAccuracy, ...]  # of the float32 master
    clean_lost_points: float  # top-1 lost to the float32 master on the same images, not shifted
    lost_points: float  # mean over shifts and severities
    more_points: float  # lost_points - clean_lost_points
    more_low: float  # 95 % interval, paired by image
    more_high: float


@record
class Asked:
    """Who answers in a cascade, beside the cascade of the float32 masters."""

    n_otherwise: Count  # images that another member answers
    reached_fractions: tuple[Fraction, ...]  # of the images, that reach each member; the first is 1
    reference_reached_fractions: tuple[Fraction, ...]


@record
class Comparison:
    """A variant's outputs held against the eager source of its precision and against the float32 master."""

    n_inputs: Count
    rtol: float
    atol: float  # the limit's, times the scale of the source's answers
    allclose: bool
    nonfinite: int
    max_abs: float | None  # None where an output is not finite
    mean_abs: float | None
    rmse: float | None
    min_cosine: float | None
    psnr_db: float | None  # None where the outputs are equal bit by bit, or not finite
    top1_agreement_fraction: float
    top1_agreement_low: float  # Wilson 95 % interval
    top1_agreement_high: float
    flips: tuple[Flip, ...]
    top1_fraction: float | None  # None without labels
    reference_top1_fraction: float | None
    per_class: dict[str, float] | None
    reference_per_class: dict[str, float] | None
    mcnemar_p: float | None
    certainty: Certainty | None = None  # None: some answers are not finite, or an earlier release compared
    unknown: Unknown | None = None  # None: not asked for
    shifts: Shifts | None = None  # None: not asked for
    scale: float = 1.0  # of the master's answers, by which limits of a flip's margin are multiplied
    asked: Asked | None = None  # of a cascade, whose outputs are the answering member's probabilities


@record
class Timing:
    """Times of one process. Raw samples are kept; nothing is clipped."""

    samples_ms: tuple[Positive, ...]  # per call (a batch of calls below 1 ms is divided by its length)
    calls_per_sample: Count
    load_ms: float
    first_ms: float
    tenth_ms: float | None  # None where ten calls would have taken longer than max_s
    median_ms: Positive
    p90_ms: Positive
    p99_ms: Positive
    iqr_fraction: float
    drift_fraction: float  # last tenth against the first, relative
    waited_fraction: float | None  # of the time, that its threads were ready and had no core; None where not shown
    noisy: bool
    energy_mj: float | None = None  # the demo app writes both; nothing reads them
    energy_reason: str | None = None


@record
class Measurement:
    """What became of one cell."""

    spec: RunSpec
    actual: dict[str, Scalar]  # engine, threads, provider that the runner really got
    comparison: Comparison | None
    timing: Timing | None
    warnings: tuple[str, ...]
    outcome: Outcome
    reason: str | None


@record
class MeasurementSet:
    """``measurements.json``: the answer of one verify or bench run, or what was asked in use on a phone.

    A row of ``use`` is one file of what was chosen in the app. Its ``actual`` has ``choice``, ``member``, and of all
    photos how many were ``asked``, ``answered`` and answered as ``none_of_these``; its times are those of the last
    thousand photos.
    """

    schema_version: Literal[1]
    kind: Literal["verify", "bench", "use"]
    created_utc: str
    bundle: str
    bundle_sha256: str  # of its manifest.json
    host: Host
    inputs: str  # what was fed, in words: "golden pack, 32 images", "household test, 1000 images"
    seed: Count
    measurements: tuple[Measurement, ...]


Phase = Literal["tune", "report", "final", "memory"]


@record
class Ceiling:
    """What this host can do at most with so many threads, measured when the sweep began."""

    threads: Count
    gemm_flops_per_s: Positive  # float32 matrix product
    cache_bytes_per_s: Positive  # copy within the cache: bytes read plus bytes written
    memory_bytes_per_s: Positive  # copy far beyond any cache


@record
class BenchedBundle:
    """One bundle of a sweep."""

    name: str  # of the manifest; with the folder's name where two bundles share it
    path: str
    sha256: str  # of its manifest.json
    parameters: Count
    flops: Count  # float32 operations of one image (a multiply-add is two)
    moved_bytes: Count  # weights, and what every layer reads and writes, of one image
    top1_fraction: float | None  # of the float32 master on its test images


@record
class BenchedMember:
    """One member of a cascade in a sweep."""

    bundle: str  # BenchedBundle.name, of its own bundle
    variants: dict[str, str]  # id there -> id in the cascade's bundle


@record
class BenchedCascade:
    """A cascade in a sweep: its members are bundles of their own there."""

    name: str  # of the manifest
    sha256: str  # of its manifest.json
    members: tuple[BenchedMember, ...]  # in the order of asking
    # Of the float32 models, on its test images: the share that reaches each member, and the answers that are right.
    reached_fractions: tuple[Fraction, ...]
    top1_fraction: Fraction
    n_images: Count
    baseline_top1_fraction: Fraction | None  # of the model that the last member was compressed from; None: not known


@record
class BenchCell:
    """One cell: what a row of the table is about."""

    id: str  # "<bundle>/<variant id>[@engine] t<threads>[ b<batch>]"
    bundle: str | None  # BenchedBundle.name; None: the overhead floor of a runtime
    variant_id: str
    format: str  # Variant.format; "eager" for the model before export
    precision: str
    file_bytes: Count | None
    runner: str  # row of harness.runners.table.RUNNERS
    engine: str | None  # see RunSpec
    threads: Count
    batch_size: Count
    skip_reason: str | None  # known before anything ran


@record
class BenchRun:
    """One process of one cell."""

    cell_id: str
    round: Count  # rounds are numbered through; ratios pair cells of one round
    phase: Phase
    duration_s: float  # of the whole process
    before: HostState
    after: HostState
    actual: dict[str, Scalar]  # engine, threads, provider that the runner really got; what a phone tells of itself
    timing: Timing | None
    wrong_answers: Count | None  # of the first call, against the golden pack's; None: not compared
    warnings: tuple[str, ...]
    outcome: Outcome
    reason: str | None
    peak_rss_bytes: Count | None  # phase "memory" alone


@record
class Budget:
    """How much time a sweep may take; rows of harness.bench.cells.BUDGETS."""

    name: str
    tune_rounds: Count  # every cell: thread counts, contenders and leaders are chosen on these
    report_rounds: Count  # the contenders, at the fewest threads and at the chosen ones, and the leaders
    final_rounds: Count  # the leaders (the best of each format) and the reference, on top
    memory: Literal["leaders", "all"]
    warmup: int
    min_samples: int
    min_s: float
    max_s: float
    timeout_s: float


@record
class Recommendation:
    """The setting to ship: chosen on the tuning rounds, its figures from the other rounds."""

    bundle: str
    cell_id: str
    threads: int
    median_ms: float
    chosen_on_rounds: tuple[int, ...]
    reported_on_rounds: tuple[int, ...]


@record
class VariantInstructions:
    """ARM instructions of one call of a variant in its phone's runtime: no time, and never ranked with times."""

    bundle: str  # BenchedBundle.name
    variant_id: str
    runtime: str  # that executed them: "android-arm64"
    threads: int
    batch_size: int
    macs: Count  # multiply-adds of a call, by the float32 model
    instructions_per_call: Positive | None  # of all threads
    spread_fraction: float | None  # of repeated counts: (largest - smallest) / median
    runs: int | None  # repeated counts
    library: str | None
    cpu: str | None  # as emulated
    outcome: Outcome
    reason: str | None


@record
class BenchSet:
    """``measurements.json`` of a bench: raw samples of every process; every statistic is derived from them."""

    schema_version: Literal[2]
    kind: Literal["bench"]
    created_utc: str
    host: Host
    seed: Count
    budget: Budget
    bundles: tuple[BenchedBundle, ...]
    reference: str  # cell id that the ratios are made to
    ceilings: tuple[Ceiling, ...]
    cells: tuple[BenchCell, ...]
    runs: tuple[BenchRun, ...]
    recommended: tuple[Recommendation, ...]  # one a bundle at most; verification was heeded
    notes: tuple[str, ...]  # what could not be measured here, and why
    complete: bool
    instructions: tuple[VariantInstructions, ...] = ()  # where they were asked for
    cascades: tuple[BenchedCascade, ...] = ()


@record
class Check:
    """One requirement, held against what was measured."""

    requirement: str
    measured: float | None
    limit: float
    unit: str
    outcome: Outcome
    reason: str | None
