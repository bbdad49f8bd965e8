"""1×1 convolutions on tiny maps, written as products of matrices, for the x86 build of PyTorch Mobile.

On x86 Android, NNPACK computes a 1×1 convolution of one image by ``nnp_conv1x1_only_2x4__psimd``
(``src/psimd/blas/conv1x1.c``), which is wrong on maps of fewer than four places: it loads four values of each of four
channels, ending at the channel's last place, and these vectors then overlap; each store undoes what the one before it
has written. Squeeze-and-excitation (Hu et al. 2018, "Squeeze-and-Excitation Networks") is made of such convolutions.
On ARM another kernel runs, and it is right. A product of matrices is the same numbers and right everywhere.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from udacisense.errors import InputError
from udacisense.stages.contract import Kind, copy_of, kind_of, replace_modules
from udacisense.stages.graph import RELATIVE_LIMIT_FP32

if TYPE_CHECKING:
    from exporters.bundle.manifest import Variant

#: Maps with fewer places (height × width) than this are computed wrongly.
SAFE_PLACES = 4
#: What to say of a file that has such convolutions as they are.
NEVER_ON_X86 = (
    "never test such a plain .ptl on an x86 emulator: its library computes 1×1 convolutions on maps of fewer than four "
    "places wrongly, and the phone's (ARM) is right; export it again, or take the one through optimize_for_mobile"
)


def is_plain_ptl(variant: Variant) -> bool:
    """Tell whether convolutions of a variant may run in float32 and outside XNNPACK, in PyTorch Mobile."""
    return variant.format == "ptl" and not variant.id.endswith("xnnpack")


class PointwiseProduct(nn.Module):
    """A 1×1 convolution as a product of matrices, with a weight that is transposed beforehand.

    float32 (N, C, H, W) in, float32 (N, K, H, W) out, as the convolution.

    Args:
        convolution: 1×1, stride 1, not padded.
        is_single: every map that it sees has one place.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d, *, is_single: bool) -> None:
        super().__init__()
        self.groups = convolution.groups
        weight, bias = convolution.weight.detach().flatten(1), convolution.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().clone()
        # (groups, C, K): the channels of one group
        by_group = weight.reshape(self.groups, -1, weight.shape[1]).transpose(1, 2).contiguous()
        self.register_buffer("weight", by_group if self.groups > 1 else by_group[0])
        self.register_buffer("bias", bias.view(self.groups, 1, -1) if self.groups > 1 else bias)
        self.is_single = is_single

    def forward(self, maps: Tensor) -> Tensor:
        """Return the convolution of ``maps``."""
        if self.is_single:
            return self._product(maps.flatten(1))[:, :, None, None]
        product = self._product(maps.permute(0, 2, 3, 1).flatten(0, 2))
        return product.view(maps.shape[0], maps.shape[2], maps.shape[3], -1).permute(0, 3, 1, 2)

    def _product(self, places: Tensor) -> Tensor:
        """(places, C) in, (places, K) out."""
        if self.groups == 1:
            return torch.addmm(self.bias, places, self.weight)
        by_group = places.reshape(places.shape[0], self.groups, -1).transpose(0, 1)
        return torch.baddbmm(self.bias, by_group, self.weight).transpose(0, 1).flatten(1)


def small_pointwise(model: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    """Find the 1×1 convolutions that see a map of fewer than four places.

    Args:
        model: eager, in evaluation mode; int8 layers are left alone.
        example: what it takes, float32 (N, 3, H, W).

    Returns:
        The module's name → the places (height × width) of each map that it saw, in order.
    """
    seen: dict[str, list[int]] = {}

    def see(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(name, []).append(math.prod(inputs[0].shape[-2:]))

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and _is_plain_pointwise(module):
                hooks.enter_context(module.register_forward_pre_hook(partial(see, name)))
        model(example)
    return {name: tuple(places) for name, places in seen.items() if min(places) < SAFE_PLACES}


def right_on_x86(model: nn.Module, example: Tensor) -> nn.Module:
    """Return ``model`` with those convolutions as products of matrices; the model itself where there are none.

    Args:
        model: eager, in evaluation mode. It stays as it is.
        example: what it takes, float32 (N, 3, H, W).

    Raises:
        InputError: the answers moved by more than another order of summation moves them.
    """
    found = small_pointwise(model, example)
    if not found:
        return model
    rewritten = copy_of(model)
    # A module that stands at several places of the network is found under one name, and is replaced in all of them.
    replacements: dict[nn.Module, nn.Module] = {}
    for name, places in found.items():
        convolution = rewritten.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        replacements[convolution] = PointwiseProduct(convolution, is_single=set(places) == {1})
    replace_modules(rewritten, replacements)
    rewritten.eval()
    if kind_of(model) is Kind.EAGER_FLOAT:
        _prove(model, rewritten, example)
    else:
        # A rounding further on may turn another order of summation into a whole step: each convolution by itself.
        for name in found:
            convolution = model.get_submodule(name)
            _prove(convolution, rewritten.get_submodule(name), _first_input(model, convolution, example))
    return rewritten


def _is_plain_pointwise(module: nn.Conv2d) -> bool:
    """Tell whether the wrong kernel would run; not so with strides, nor where each group has one input channel.

    A subclass or a hook may compute something else: it is left alone.
    """
    padding = module.padding if isinstance(module.padding, str) else max(module.padding)
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and module.stride == (1, 1)
        and padding in (0, "valid", "same")
        and module.in_channels > module.groups
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _first_input(model: nn.Module, convolution: nn.Module, example: Tensor) -> Tensor:
    """Return the first map that a convolution of the model is given for the example."""
    seen: list[Tensor] = []
    hook = convolution.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with hook, torch.inference_mode():
        model(example)
    return seen[0]


def _prove(model: nn.Module, rewritten: nn.Module, example: Tensor) -> None:
    """Hold what was rewritten (a network, or one convolution) against the original: example, its negative, noise."""
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for probe in (example, -example, noise):
            expected, answered = model(probe), rewritten(probe)
            difference = (answered - expected).abs().max().item()
            if not difference <= RELATIVE_LIMIT_FP32 * expected.abs().max().item():  # also true for NaN
                raise InputError(
                    f"Written as products of matrices, the 1×1 convolutions on small maps changed the answers "
                    f"(max |Δ| {difference:.3g}); export fp32 through XNNPACK alone."
                )
