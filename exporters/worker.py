"""The process behind one format: make each planned variant and leave an answer. Run by ``exporters.export``."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from exporters.bundle.golden import expected, write_floats
from exporters.bundle.precision import load_activations
from exporters.bundle.reference import activations_path
from exporters.check import moved_alone
from exporters.formats.contract import NotPossibleError, Plan, Product
from exporters.formats.table import FORMATS
from exporters.formats.workbench import Workbench
from exporters.job import GOLDEN, IMAGES, KEPT, MODEL, Job, VariantResult, result_path, started_path
from udacisense.base.files import remove
from udacisense.base.records import Outcome, read_json, write_record
from udacisense.base.tensors import save_tensors
from udacisense.errors import InputError, cause
from udacisense.models.artifact import RECIPES
from udacisense.models.build import build_model
from udacisense.models.weights import load_state
from udacisense.stages.contract import make_plain
from udacisense.stages.quantize import quantized_engine

# Of the largest logit, from process to process: another PyTorch, or other threads, sum in another order.
_MOST_MOVED = 1e-2


def main(folder: Path) -> None:
    """Do the job in ``folder/job.json``: a recipe, or one ``<plan id>.json`` a variant, its file in ``files/``."""
    torch.set_num_threads(1)
    job = read_json(Job, folder / Job.FILE_NAME)
    bench = _workbench(job, folder)
    if job.calibrates is not None:
        save_tensors(folder / f"{RECIPES}{job.calibrates}.safetensors", bench.activations(job.calibrates))
    for plan in job.plans:
        if not result_path(folder, plan).exists():
            started_path(folder, plan).touch()
            write_record(result_path(folder, plan), _make(plan, job, bench, folder))


def _workbench(job: Job, folder: Path) -> Workbench:
    shared = Path(job.shared)
    torch.manual_seed(0)
    model = build_model(job.model)
    load_state(model, shared / MODEL)
    images = load_file(shared / IMAGES)
    if moved := moved_alone(model.eval(), images["golden_inputs"][:2], images["golden_logits"][:2], _MOST_MOVED):
        raise InputError(
            f"The model that is built in another process, with the same weights, answers otherwise ({moved}): the "
            "order of a set, hash(), the environment, the time or a file goes into it. Let its factory depend on its "
            "options alone."
        )
    for name in ("files", "scratch", GOLDEN, KEPT):
        (folder / name).mkdir(exist_ok=True)
    return Workbench(
        name=job.name,
        model=make_plain(model).requires_grad_(False),
        signature=job.signature,
        temperature=job.temperature,
        artifact_sha256=job.artifact_sha256,
        options=job.options,
        calibration=images.get("calibration"),
        golden_inputs=images["golden_inputs"],
        folder=folder / "files",
        scratch=folder / "scratch",
        recipes={
            kept.stem.removeprefix(RECIPES): load_activations(kept)
            for kept in sorted(shared.glob(f"{RECIPES}*.safetensors"))
        },
    )


def _make(plan: Plan, job: Job, bench: Workbench, folder: Path) -> VariantResult:
    start = time.perf_counter()
    product: Product | None = None
    try:
        product = FORMATS[job.format].export(plan, bench)
        has_golden = _write_own_golden(plan, product, bench, folder)
        if product.options.get("recipe") is not None:
            kept = folder / activations_path(plan.id, plan.engine, product.options)
            save_tensors(kept, bench.activations(str(plan.recipe_engine)))
        outcome, reason = Outcome.PASSED, None
    except NotPossibleError as exc:
        outcome, reason, has_golden = Outcome.SKIPPED, str(exc), False
    # A converter raises whatever it likes on a model that it does not know; the variant failed, and this is why.
    except Exception as exc:
        outcome, reason, has_golden = Outcome.FAILED, cause(exc), False
    if outcome is not Outcome.PASSED:
        remove(bench.folder / plan.file_name)
        product = None
    return VariantResult(
        outcome=outcome,
        reason=reason,
        product=product,
        has_golden=has_golden,
        duration_s=time.perf_counter() - start,
    )


def _write_own_golden(plan: Plan, product: Product, bench: Workbench, folder: Path) -> bool:
    """Write what the variant should answer to the golden inputs, where that is not the float32 master's logits."""
    is_own = plan.engine is not None
    is_probability = product.output_kind == "probabilities"
    if not is_own and not is_probability:
        return False
    classifier = bench.classifier(plan) if is_own else bench.model
    with quantized_engine(plan.engine or torch.backends.quantized.engine):
        answers = expected(
            classifier,
            bench.golden_inputs,
            bench.signature,
            temperature=bench.temperature if is_probability else None,
        )
    write_floats(folder / GOLDEN / f"{plan.id}.f32", answers)
    return True
