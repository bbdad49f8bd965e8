"""MIL operators in torch: one function an operator, after coremltools' documentation of each.

Float values are float32 tensors whose precision the caller rounds; integers are int64. An operator takes its named
arguments as the program binds them; absent ones have MIL's documented default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.runners.mil import shapes as mil_shapes
from harness.runners.mil.shapes import Arguments, Operator, UnknownOperatorError, Value, ints, tensor


def _axes(a: Arguments, x: Tensor) -> list[int]:
    return ints(a["axes"]) if a.get("axes") is not None else list(range(x.ndim))


# --- Convolution and matrix products -------------------------------------------------------------------------------


def _conv(a: Arguments) -> Value:
    x, weight = a["x"], a["weight"]
    spatial = x.ndim - 2
    strides = ints(a.get("strides", [1] * spatial))
    dilations = ints(a.get("dilations", [1] * spatial))
    pads = _conv_pads(a, x.shape[2:], weight.shape[2:], strides, dilations)
    # MIL: before and after of each axis, first axis first; torch.pad: last axis first.
    torch_pads = [p for axis in reversed(range(spatial)) for p in pads[2 * axis : 2 * axis + 2]]
    symmetric = all(pads[2 * i] == pads[2 * i + 1] for i in range(spatial))
    padding = [pads[2 * i] for i in range(spatial)] if symmetric else [0] * spatial
    x = x if symmetric else F.pad(x, torch_pads)
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial]
    groups = int(a.get("groups", 1))
    return function(x, weight, a.get("bias"), stride=strides, padding=padding, dilation=dilations, groups=groups)


def _conv_pads(
    a: Arguments, size: Sequence[int], kernel: Sequence[int], strides: list[int], dilations: list[int]
) -> list[int]:
    kind = str(a.get("pad_type", "valid"))
    if kind == "valid":
        return [0] * (2 * len(size))
    if kind == "custom":
        return ints(a["pad"])
    if kind not in {"same", "same_lower"}:
        raise UnknownOperatorError([f"pad_type '{kind}'"])
    pads = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        low = total // 2 if kind == "same" else total - total // 2
        pads += [low, total - low]
    return pads


def _matmul(a: Arguments) -> Value:
    x, y = tensor(a["x"]), tensor(a["y"])
    x = x.transpose(-1, -2) if a.get("transpose_x", False) else x
    y = y.transpose(-1, -2) if a.get("transpose_y", False) else y
    return torch.matmul(x, y)


def _batch_norm(a: Arguments) -> Value:
    return F.batch_norm(
        a["x"], a["mean"], a["variance"], a.get("gamma"), a.get("beta"), eps=float(a.get("epsilon", 1e-5))
    )


def _layer_norm(a: Arguments) -> Value:
    x, axes = a["x"], _axes(a, a["x"])
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    normal = (x - mean) / torch.sqrt(variance + float(a.get("epsilon", 1e-5)))
    normal = normal * a["gamma"] if a.get("gamma") is not None else normal
    return normal + a["beta"] if a.get("beta") is not None else normal


def _instance_norm(a: Arguments) -> Value:
    return F.instance_norm(a["x"], weight=a.get("gamma"), bias=a.get("beta"), eps=float(a.get("epsilon", 1e-5)))


# --- Pooling and resizing ------------------------------------------------------------------------------------------


def _pool(a: Arguments, *, average: bool) -> Value:
    x = a["x"]
    kernel = ints(a["kernel_sizes"])
    strides = ints(a.get("strides", [1] * len(kernel)))
    pads = _conv_pads(a, x.shape[2:], kernel, strides, [1] * len(kernel))
    largest = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(kernel)]
    mean = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(kernel)]
    ends = zip(x.shape[2:], kernel, strides, pads[::2], pads[1::2], strict=True)
    if a.get("ceil_mode", False) and any((n + low + high - k) % s for n, k, s, low, high in ends):  # else no rounding
        if pads[::2] != pads[1::2]:
            raise UnknownOperatorError(["a pool of uneven padding with ceil_mode"])
        if not average:
            return largest(x, kernel, strides, pads[::2], ceil_mode=True)  # "same as PyTorch's" (coremltools, max_pool)
        if not a.get("exclude_padding_from_average", False):
            raise UnknownOperatorError(["an average pool with ceil_mode that counts what lies outside"])
        return mean(x, kernel, strides, pads[::2], ceil_mode=True, count_include_pad=False)
    torch_pads = [p for axis in reversed(range(len(kernel))) for p in pads[2 * axis : 2 * axis + 2]]
    if not average:
        return largest(F.pad(x, torch_pads, value=float("-inf")), kernel, strides)
    pooled = mean(F.pad(x, torch_pads), kernel, strides)
    if a.get("exclude_padding_from_average", False):
        pooled = pooled / mean(F.pad(torch.ones_like(x), torch_pads), kernel, strides)
    return pooled


def _grid(size: int, out: int, mode: str) -> Tensor:
    """Return where each output sample lies in the input, in pixels (coremltools, ``resize_bilinear``, Notes)."""
    i = torch.arange(out, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        points = i * (size / out) + 0.5 * size / out - 0.5
    elif mode == "DEFAULT":
        points = i * ((size - size / out) / max(out - 1, 1))
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / out
        points = 0.5 * delta + i * delta
    elif mode in {"ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"}:
        points = i * ((size - 1) / max(out - 1, 1))
        if out == 1 and mode == "ALIGN_CORNERS":
            points = torch.full((1,), (size - 1) / 2, dtype=torch.float64)
    else:
        raise UnknownOperatorError([f"sampling mode '{mode}'"])
    return points.clamp(0, size - 1)


def _sample(x: Tensor, axis: int, points: Tensor) -> Value:
    """Interpolate linearly along one axis."""
    low = points.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = len(points)
    weight = (points - low).to(x.dtype).reshape(shape)
    return x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight


def _resize_linear(x: Tensor, height: int, width: int, mode: str) -> Value:
    if x.ndim == 4 and mode in {"UNALIGN_CORNERS", "STRICT_ALIGN_CORNERS"}:
        aligned = mode == "STRICT_ALIGN_CORNERS"
        return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=aligned)
    x = _sample(x, x.ndim - 2, _grid(x.shape[-2], height, mode))
    return _sample(x, x.ndim - 1, _grid(x.shape[-1], width, mode))


def _upsample_bilinear(a: Arguments) -> Value:
    x = a["x"]
    height = int(x.shape[-2] * float(a.get("scale_factor_height", 1)) + 1e-6)
    width = int(x.shape[-1] * float(a.get("scale_factor_width", 1)) + 1e-6)
    aligned = bool(a.get("align_corners", True))
    if not aligned and not a.get("half_pixel_centers", True):
        return _resize_linear(x, height, width, "DEFAULT")
    return _resize_linear(x, height, width, "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS")


def _resize_bilinear(a: Arguments) -> Value:
    mode = str(a.get("sampling_mode", "DEFAULT"))
    return _resize_linear(a["x"], int(a.get("target_size_height", 1)), int(a.get("target_size_width", 1)), mode)


def _resize(a: Arguments) -> Value:
    x, target = a["x"], ints(a["shape"])
    height, width = (n or x.shape[i] for n, i in zip(target[-2:], (-2, -1), strict=True))
    if str(a.get("interpolation_mode", "LINEAR")) == "LINEAR":
        return _resize_linear(x, height, width, str(a.get("sampling_mode", "DEFAULT")))
    raise UnknownOperatorError(["resize with NEAREST_NEIGHBOR"])


def _upsample_nearest(a: Arguments) -> Value:
    height, width = float(a.get("scale_factor_height", 1)), float(a.get("scale_factor_width", 1))
    return F.interpolate(a["x"], scale_factor=(height, width), mode="nearest")


# --- Element-wise --------------------------------------------------------------------------------------------------


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda a: function(tensor(a["x"]))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def call(a: Arguments) -> Value:
        x, y = tensor(a["x"]), tensor(a["y"])
        return function(x, y)

    return call


def _gelu(a: Arguments) -> Value:
    mode = str(a.get("mode", "EXACT"))
    if mode == "SIGMOID_APPROXIMATION":
        return a["x"] * torch.sigmoid(1.702 * a["x"])
    return F.gelu(a["x"], approximate="none" if mode == "EXACT" else "tanh")


def _clamped_relu(a: Arguments) -> Value:
    return torch.where(a["x"] >= 0, a["x"], a["x"] * a["alpha"]).clamp(max=float(a["beta"]))


def _cast(a: Arguments) -> Value:
    x, name = tensor(a["x"]), str(a["dtype"])
    if name == "bool":
        return x != 0
    return x.trunc() if name.startswith(("int", "uint")) and x.is_floating_point() else x


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    return lambda a: function(a["x"], _axes(a, a["x"]), bool(a.get("keep_dims", False)))


def _argument(function: Callable[..., Tensor]) -> Operator:
    return lambda a: function(a["x"], dim=int(a.get("axis", -1)), keepdim=bool(a.get("keep_dims", False)))


# --- Quantisation --------------------------------------------------------------------------------------------------


def _quantize(a: Arguments) -> Value:
    x, scale, zero = _affine(a)
    low, high = (-128, 127) if str(a["output_dtype"]) == "int8" else (0, 255)
    return (torch.round(x / scale) + zero).clamp(low, high)


def _dequantize(a: Arguments) -> Value:
    x, scale, zero = _affine(a)
    return (x - zero) * scale


def _affine(a: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    x = tensor(a["input"]).to(torch.float32)
    scale, zero = tensor(a["scale"]).to(torch.float32), tensor(a.get("zero_point", 0)).to(torch.float32)
    if scale.ndim:
        shape = [1] * x.ndim
        shape[int(a["axis"])] = -1
        return x, scale.reshape(shape), zero.reshape(shape) if zero.ndim else zero
    return x, scale, zero


OPERATORS: dict[str, Operator] = {
    "conv": _conv,
    "linear": lambda a: F.linear(tensor(a["x"]), a["weight"], a.get("bias")),
    "matmul": _matmul,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "instance_norm": _instance_norm,
    "avg_pool": lambda a: _pool(a, average=True),
    "max_pool": lambda a: _pool(a, average=False),
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest,
    "resize_bilinear": _resize_bilinear,
    "resize": _resize,
    "relu": _unary(torch.relu),
    "relu6": _unary(F.relu6),
    "sigmoid": _unary(torch.sigmoid),
    "tanh": _unary(torch.tanh),
    "silu": _unary(F.silu),
    "softsign": _unary(F.softsign),
    "softplus": _unary(F.softplus),
    "gelu": _gelu,
    "leaky_relu": lambda a: F.leaky_relu(a["x"], float(a.get("alpha", 0.01))),
    "elu": lambda a: F.elu(a["x"], float(a.get("alpha", 1.0))),
    "prelu": lambda a: F.prelu(a["x"], a["alpha"]),
    "thresholded_relu": lambda a: torch.where(a["x"] >= a["alpha"], a["x"], torch.zeros_like(a["x"])),
    "clamped_relu": _clamped_relu,
    "sigmoid_hard": lambda a: (a["x"] * float(a.get("alpha", 0.2)) + float(a.get("beta", 0.5))).clamp(0, 1),
    "softmax": lambda a: torch.softmax(a["x"], int(a.get("axis", -1))),
    "abs": _unary(torch.abs),
    "ceil": _unary(torch.ceil),
    "floor": _unary(torch.floor),
    "round": _unary(torch.round),
    "sign": _unary(torch.sign),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "exp": _unary(torch.exp),
    "erf": _unary(torch.erf),
    "log": lambda a: torch.log(a["x"] + float(a.get("epsilon", 1e-45))),
    "rsqrt": lambda a: torch.rsqrt(a["x"] + float(a.get("epsilon", 1e-12))),
    "inverse": lambda a: 1 / (a["x"] + float(a.get("epsilon", 1e-4))),
    "clip": lambda a: a["x"].clamp(float(a.get("alpha", 0.0)), float(a.get("beta", 1.0))),
    "identity": _unary(lambda x: x),
    "cast": _cast,
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.true_divide),
    "floor_div": _binary(torch.floor_divide),
    "mod": _binary(torch.remainder),
    "pow": _binary(torch.pow),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "select": lambda a: torch.where(tensor(a["cond"]), tensor(a["a"]), tensor(a["b"])),
    "reduce_mean": _reduction(lambda x, d, k: x.mean(d, keepdim=k)),
    "reduce_sum": _reduction(lambda x, d, k: x.sum(d, keepdim=k)),
    "reduce_max": _reduction(lambda x, d, k: x.amax(d, keepdim=k)),
    "reduce_min": _reduction(lambda x, d, k: x.amin(d, keepdim=k)),
    "reduce_l2_norm": _reduction(lambda x, d, k: torch.linalg.vector_norm(x, dim=d, keepdim=k)),
    "reduce_sum_square": _reduction(lambda x, d, k: x.square().sum(d, keepdim=k)),
    "reduce_argmax": _argument(torch.argmax),
    "reduce_argmin": _argument(torch.argmin),
    "reshape": mil_shapes.reshape,
    "flatten2d": mil_shapes.flatten,
    "transpose": lambda a: a["x"].permute(ints(a["perm"])),
    "squeeze": mil_shapes.squeeze,
    "expand_dims": mil_shapes.expand_dims,
    "shape": lambda a: torch.tensor(a["x"].shape),
    "concat": mil_shapes.concat,
    "stack": lambda a: torch.stack([tensor(v) for v in a["values"]], dim=int(a["axis"])),
    "split": mil_shapes.split,
    "slice_by_index": mil_shapes.slice_by_index,
    "slice_by_size": mil_shapes.slice_by_size,
    "gather": mil_shapes.gather,
    "gather_along_axis": mil_shapes.gather_along_axis,
    "gather_nd": mil_shapes.gather_nd,
    "scatter": mil_shapes.scatter(mil_shapes.gather),
    "scatter_along_axis": mil_shapes.scatter(mil_shapes.gather_along_axis),
    "scatter_nd": mil_shapes.scatter(mil_shapes.gather_nd),
    "pixel_shuffle": lambda a: F.pixel_shuffle(a["x"], int(a["upscale_factor"])),
    "pixel_unshuffle": lambda a: F.pixel_unshuffle(a["x"], int(a["downscale_factor"])),
    "tile": lambda a: a["x"].repeat(ints(a["reps"])),
    "pad": mil_shapes.pad,
    "quantize": _quantize,
    "dequantize": _dequantize,
}
