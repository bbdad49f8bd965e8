"""Graph optimisation: trace the eager model into TorchScript and freeze it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from udacisense.errors import StageError, cause
from udacisense.models.resizing import ProductsForBilinear
from udacisense.stages.contract import Kind, StepContext, StepResult, copy_of, kind_of

RELATIVE_LIMIT_FP32 = 1e-4
# Folding batch normalisation moves activations by a rounding error, which may carry one of them over an int8
# rounding border: a step of the quantiser, not a fault of the graph. A wrong graph is off by far more.
RELATIVE_LIMIT_INT8 = 5e-2
_SMALLEST_SCALE = 1e-6  # logits below this are rounding noise themselves (an untrained network)

# `torch.jit.optimize_for_inference` is left out on purpose. It rewrites convolutions into MKLDNN operators whose
# weights are opaque constants: `torch.jit.save` drops them (a 4.3 MB model becomes 0.6 MB) and loading the file fails
# with "required keyword attribute 'value' is undefined". A graph that has to reach a phone must survive its file.
NOT_OPTIMIZED_FP32 = (
    "skipped: optimize_for_inference ties the graph to this host's MKLDNN and the saved file would not load again"
)
NOT_OPTIMIZED_INT8 = (
    "skipped: optimize_for_inference has no rewrite for quantised operators, and its MKLDNN ones do not survive saving"
)


def is_frozen(model: nn.Module) -> bool:
    """Tell whether a module is frozen TorchScript (freezing removes the ``training`` attribute)."""
    return isinstance(model, torch.jit.ScriptModule) and not hasattr(model, "training")


def trace_and_freeze(model: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Return ``model`` as frozen TorchScript: parameters inlined, batch normalisation folded into convolutions.

    Args:
        model: an eager float32 or quantised model, or TorchScript, on the CPU. It stays as it is. What is already
            frozen is returned unchanged: freezing again would fail.
        example: float32 (N, 3, H, W), on the CPU. Other batch sizes work on the result too, unless the
            model's Python code depends on them.

    Raises:
        StageError: the model cannot be traced, or its outputs moved by more than 1e-4 of the largest logit.
    """
    return _traced(model, example)[0]


def apply_graph_optimization(model: nn.Module, context: StepContext) -> StepResult:
    """Pipeline step: trace, freeze, and check that the outputs are still the same.

    Notes kept: ``max_abs_difference`` and ``optimize_for_inference`` (why it is not applied).
    """
    kind = kind_of(model)
    frozen, difference = _traced(model, context.example)
    reason = NOT_OPTIMIZED_FP32 if kind is Kind.EAGER_FLOAT else NOT_OPTIMIZED_INT8
    return StepResult(model=frozen, notes={"max_abs_difference": difference, "optimize_for_inference": reason})


def _traced(model: nn.Module, example: Tensor) -> tuple[torch.jit.ScriptModule, float]:
    """Return the frozen module and its max |Δ| to ``model``."""
    if is_frozen(model):
        return cast("torch.jit.ScriptModule", model), 0.0
    source = copy_of(model).eval()
    with torch.inference_mode(), warnings.catch_warnings():
        if kind_of(model) is Kind.EAGER_INT8:
            # Quantised activations hold their scale in a tensor, which the trace rightly takes as a constant.
            warnings.filterwarnings("ignore", message="Converting a tensor to a Python")
        if kind_of(model) is Kind.EAGER_FLOAT:
            require_no_decision(source, example)
        try:
            # PyTorch's own check of the trace compares one input with itself; ours below uses unseen ones too.
            scripted = source if isinstance(source, torch.jit.ScriptModule) else _trace(source, example)
            frozen = torch.jit.freeze(scripted)
        except (RuntimeError, TypeError, ValueError) as exc:
            raise StageError(
                f"{type(model).__name__} cannot be traced into TorchScript ({cause(exc)}); "
                "its forward must take one tensor and return one tensor."
            ) from exc
        if left := next((node for node in frozen.graph.nodes() if node.kind() == "prim::PythonOp"), None):
            name = left.pyobj().__self__.__name__
            raise StageError(
                f"{type(model).__name__} calls {name}.apply, an autograd function, by another name, and no file can "
                f"hold Python: write {name}.apply(x) in forward, or compute the same by torch's own operators."
            )
        difference = _max_difference(source, frozen, example)
    return frozen, difference


def decisions(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Return where a forward reads a value that depends on its input, as ``file.py:line (code)``.

    Tracing runs one way through such a place and keeps it; sizes and values of weights are constants, and none.

    Args:
        model: eager float32.
        example: float32 (N, 3, H, W).
    """
    with torch.inference_mode(), _Decisions(example.clone()) as watching, _Readings(watching):
        model(watching.example)
    return tuple(dict.fromkeys(watching.places))


def require_no_decision(model: nn.Module, example: Tensor) -> None:
    """Refuse a model that a trace would freeze on one way.

    Raises:
        StageError: with the place in the model's source.
    """
    if places := decisions(model, example):
        raise StageError(
            f"The trace froze a decision on the input's values, at {places[0]}: for other images the file would answer "
            "otherwise than the model. Compute both ways and choose with torch.where, or leave the check out."
        )


class _Decisions(TorchDispatchMode):
    """Follows what is computed of an example, and notes where Python asks for its value."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.example = example
        self.places: list[str] = []
        self.derived = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]
        self.derived[example] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator: what it makes of something derived is derived too; a plain number of it is a decision."""
        made = func(*args, **(kwargs or {}))
        given, _ = tree_flatten((args, kwargs))
        if any(isinstance(value, Tensor) and value in self.derived for value in given):
            tensors = [value for value in tree_flatten(made)[0] if isinstance(value, Tensor)]
            for tensor in tensors:
                self.derived[tensor] = True
            if not tensors and made is not None:
                self.places.append(_place())
        return made


class _Readings(TorchFunctionMode):
    """Notes where values that are computed of an example leave torch, where no operator is seen."""

    leaving = (Tensor.numpy, Tensor.tolist, Tensor.__array__)

    def __init__(self, watching: _Decisions) -> None:
        super().__init__()
        self.watching = watching

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch."""
        if func in self.leaving and args[0] in self.watching.derived:
            self.watching.places.append(_place())
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """Return the innermost line of the call that is neither torch's nor ours."""
    ours = (str(Path(torch.__file__).parent), __file__)
    frame = next(f for f in reversed(traceback.extract_stack()) if not f.filename.startswith(ours))
    return f"{Path(frame.filename).name}:{frame.lineno} ({frame.line})"


def _trace(source: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    def trace() -> torch.jit.ScriptModule:
        with ProductsForBilinear(), _forward_alone():
            return torch.jit.trace(source, example, check_trace=False)  # type: ignore[no-any-return, no-untyped-call]

    if kind_of(source) is not Kind.EAGER_FLOAT:
        return trace()
    # A twelfth to an eighth faster on a desk, no instruction more on ARM; what comes in may be in either layout.
    _lay_out(source, torch.channels_last)
    try:
        return trace()
    # Such as a view() behind a convolution, which only the plain layout has; the model's own code may check it.
    except Exception:
        _lay_out(source, torch.contiguous_format)
        return trace()


class _NoContext:
    """Takes what a forward of :class:`torch.autograd.Function` keeps for its backward, and keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@contextmanager
def _forward_alone() -> Iterator[None]:
    """Let a user's autograd functions be their forward: a trace would hold a call of Python, and no file can."""
    kept = vars(torch.autograd.Function)["apply"]
    without_context = torch.autograd.Function.setup_context

    def apply(cls: Any, *args: Any) -> Any:
        return cls.forward(*([_NoContext()] if cls.setup_context is without_context else []), *args)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = kept  # type: ignore[method-assign]


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _max_difference(source: nn.Module, frozen: torch.jit.ScriptModule, example: Tensor) -> float:
    """Compare on the example, its negative and seeded noise; a branch taken on the data shows here.

    Raises:
        StageError: the largest |Δ| is over the limit, or not finite.
    """
    limit = RELATIVE_LIMIT_FP32 if kind_of(source) is Kind.EAGER_FLOAT else RELATIVE_LIMIT_INT8
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    largest = 0.0
    for probe in (example, -example, noise):
        expected, answered = source(probe), frozen(probe)
        scale = max(expected.abs().max().item(), _SMALLEST_SCALE)
        difference = (answered - expected).abs().max().item()
        if not difference <= limit * scale:  # also true for NaN
            raise StageError(
                f"Graph optimisation changed the outputs of {type(source).__name__}: max |Δ| {difference:.3g} where "
                f"the largest logit is {scale:.3g}, and {limit:g} of that is allowed. A forward that branches on its "
                "input's values cannot be traced."
            )
        largest = max(largest, difference)
    return largest
