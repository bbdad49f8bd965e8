"""The MIL evaluator against PyTorch, and against coremltools' own ``value_inference`` where it has one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.runners.mil.ops import OPERATORS
from harness.runners.mil.program import Program, read_program
from harness.runners.mil.shapes import UnknownOperatorError

SHAPE = (1, 3, 8, 8)


@pytest.fixture(scope="module")
def ct() -> Any:
    with warnings.catch_warnings():
        # coremltools warns of the macOS libraries that it lacks here.
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        import coremltools
        import coremltools.optimize.coreml

        logging.disable(logging.NOTSET)
    return coremltools


def converted(ct: Any, module: nn.Module, folder: Path, *, precision: str = "FLOAT32", target: str = "iOS17") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module.eval(), torch.zeros(SHAPE))
        model = ct.convert(
            traced,
            inputs=[ct.TensorType(name="input", shape=SHAPE, dtype=np.float32)],
            outputs=[ct.TensorType(name="logits", dtype=np.float32)],
            convert_to="mlprogram",
            compute_precision=getattr(ct.precision, precision),
            minimum_deployment_target=getattr(ct.target, target),
            skip_model_load=True,
        )
        model.save(str(folder / "model.mlpackage"))
    return model


class Of(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def layers(*modules: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in modules:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return nn.Sequential(*modules)


def written_in_place(x: Tensor) -> Tensor:
    kept = x * 1
    kept[:, :2] += x[:, 1:]
    kept[:, :, 3] = 0.5
    return kept


CASES: dict[str, nn.Module] = {
    "convolution with stride and groups": layers(nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)),
    "dilated convolution": layers(nn.Conv2d(3, 4, 3, padding=2, dilation=2)),
    "batch norm after a pool": layers(nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(3)),
    "pools rounded up": layers(nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "average pool rounded up, where nothing is left over": layers(nn.AvgPool2d(2, 2, ceil_mode=True)),
    "average pool rounded up": layers(nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False)),
    "the same, padded": layers(nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)),
    "average pool": layers(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, count_include_pad=False)),
    "padding modes": Of(lambda x: F.pad(F.pad(x, (1, 2, 0, 1), mode="reflect"), (1, 1, 1, 1), value=0.5)),
    "hard swish and sigmoid": layers(nn.Hardswish(), nn.Hardsigmoid(), nn.Conv2d(3, 3, 1), nn.SiLU()),
    "activations": layers(nn.ReLU6(), nn.ELU(), nn.LeakyReLU(0.1), nn.GELU(), nn.Tanh(), nn.Softplus()),
    "prelu": layers(nn.PReLU(3)),
    "bilinear by factor": Of(lambda x: F.interpolate(x, size=(24, 24), mode="bilinear", align_corners=False)),
    "bilinear to an odd size": Of(lambda x: F.interpolate(x, size=(13, 11), mode="bilinear", align_corners=False)),
    "bilinear, aligned": Of(lambda x: F.interpolate(x, size=(15, 15), mode="bilinear", align_corners=True)),
    "nearest": Of(lambda x: F.interpolate(x, scale_factor=2, mode="nearest")),
    "reductions": Of(lambda x: x.mean((2, 3)) + x.amax((2, 3)) - x.sum((2, 3)) / 64 + x.amin((2, 3))),
    "softmax of a linear layer": layers(nn.Flatten(), nn.Linear(192, 5), nn.Softmax(dim=1)),
    "layer norm": layers(nn.Flatten(), nn.LayerNorm(192)),
    "arithmetic": Of(lambda x: (x.abs() + 1).sqrt() * torch.exp(-x) / (x.square() + 2) - x.clamp(-0.5, 0.5)),
    "shapes": Of(
        lambda x: torch.cat(
            [x.permute(0, 2, 3, 1).reshape(1, 8, 24), x.flatten(2).transpose(1, 2).reshape(1, 8, 24)], 1
        )
    ),
    "slices": Of(lambda x: torch.stack([x[:, :, 1:7:2], x[:, :, :3]], dim=1).squeeze(0)),
    "split and gate": Of(lambda x: torch.sigmoid(x[:, :, :4]) * x.chunk(2, dim=2)[1]),
    "matrix product": Of(lambda x: x @ x.transpose(-1, -2)),
    "channel shuffle": Of(
        lambda x: torch.cat([x, 2 * x], 1).reshape(1, 2, 3, 8, 8).transpose(1, 2).reshape(1, 6, 8, 8)
    ),
    "pixels and channels exchanged": Of(lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 4)[:, :36], 3)),
    "gather": Of(lambda x: x[:, [2, 0, 1]][:, :, :, [7, 7, 0]]),
    "gather of the rows of a matrix": Of(lambda x: x.flatten(0, 2)[torch.tensor([[3, 1], [0, 23]])]),
    "gather along an axis": Of(lambda x: torch.gather(x, 3, torch.arange(8).flip(0).expand(1, 3, 8, 8))),
    "slices written in place": Of(written_in_place),
    "scatter along an axis": Of(
        lambda x: torch.scatter(x, 3, torch.arange(8).flip(0).expand(1, 3, 8, 8), 2 * x).scatter_add(
            2, torch.zeros(1, 3, 8, 8, dtype=torch.long), x
        )
    ),
    "gather of points": Of(lambda x: x[torch.tensor([0, 0]), torch.tensor([2, 1]), torch.tensor([7, 3])]),
    "where": Of(lambda x: torch.where(x > 0.1, x, torch.zeros_like(x))),
}


@pytest.mark.parametrize("name", CASES)
def test_float32_programs_answer_as_pytorch_does(ct: Any, tmp_path: Path, name: str) -> None:
    converted(ct, CASES[name], tmp_path)
    images = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got, wanted = read_program(tmp_path / "model.mlpackage").evaluate(images), CASES[name].eval()(images)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def small_network() -> nn.Module:
    return layers(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Hardswish(), nn.Flatten(), nn.Linear(1024, 10))


def test_float16_is_rounded_as_the_file_declares(ct: Any, tmp_path: Path) -> None:
    network = small_network()
    converted(ct, network, tmp_path, precision="FLOAT16")
    program = read_program(tmp_path / "model.mlpackage")
    seen: list[Tensor] = []
    images = torch.randn(SHAPE)
    with torch.inference_mode():
        got = program.evaluate(images, visit=lambda _name, _operator, _arguments, value: seen.append(value.clone()))
        wanted = network(images)
    assert len(seen) >= 5
    for value in seen:
        assert torch.equal(value, value.half().float())
    difference = (got - wanted).abs().max().item()
    assert 0 < difference < 1e-2


def compressions(ct: Any) -> dict[str, Callable[[Any], Any]]:
    cto = ct.optimize.coreml

    def config(options: Any) -> Any:
        return cto.OptimizationConfig(global_config=options)

    return {
        "int8": lambda m: cto.linear_quantize_weights(m, config(cto.OpLinearQuantizerConfig(mode="linear_symmetric"))),
        "int8 with a zero point": lambda m: cto.linear_quantize_weights(
            m, config(cto.OpLinearQuantizerConfig(mode="linear"))
        ),
        "palette": lambda m: cto.palettize_weights(m, config(cto.OpPalettizerConfig(mode="uniform", nbits=6))),
        "sparse": lambda m: cto.prune_weights(m, config(cto.OpMagnitudePrunerConfig(target_sparsity=0.3))),
    }


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("kind", ["int8", "int8 with a zero point", "palette", "sparse"])
def test_compressed_weights_are_those_that_coremltools_expands(ct: Any, tmp_path: Path, kind: str, target: str) -> None:
    """The compressed program equals the one that coremltools itself decompresses, and is near the float one."""
    network = small_network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = compressions(ct)[kind](converted(ct, network, tmp_path, target=target))
        model.save(str(tmp_path / "small.mlpackage"))
        ct.optimize.coreml.decompress_weights(model).save(str(tmp_path / "wide.mlpackage"))
    images = torch.randn((4, *SHAPE[1:]), generator=torch.Generator().manual_seed(1))

    def answers(name: str) -> Tensor:
        program = read_program(tmp_path / name)
        return torch.cat([program.evaluate(image[None]) for image in images])

    with torch.inference_mode():
        small, wide, exact = answers("small.mlpackage"), answers("wide.mlpackage"), network(images)
    assert torch.equal(small, wide)
    assert not torch.equal(small, exact)
    assert (small - exact).abs().max() < 0.3 * (exact.max() - exact.min())


def test_unknown_operators_are_named(ct: Any, tmp_path: Path) -> None:
    converted(ct, Of(lambda x: torch.cumsum(x, dim=2).sin()), tmp_path)
    with pytest.raises(UnknownOperatorError, match="does not know: cumsum, sin"):
        read_program(tmp_path / "model.mlpackage")


def test_unknown_modes_of_known_operators_are_named() -> None:
    with pytest.raises(UnknownOperatorError, match="SIDEWAYS"):
        OPERATORS["resize_bilinear"]({"x": torch.zeros(1, 3, 4, 4), "sampling_mode": "SIDEWAYS"})


@pytest.mark.parametrize(
    ("mode", "points"),
    # coremltools' documentation of resize_bilinear, its example of an input interval [0, 1].
    [
        ("UNALIGN_CORNERS", [0.0, 0.1, 0.5, 0.9, 1.0]),
        ("STRICT_ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("DEFAULT", [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
    ],
)
def test_sampling_modes_are_those_of_the_documentation(mode: str, points: list[float]) -> None:
    ramp = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    got = OPERATORS["resize_bilinear"](
        {"x": ramp, "target_size_height": 1, "target_size_width": 5, "sampling_mode": mode}
    )
    assert got.flatten().tolist() == pytest.approx(points)


@pytest.mark.parametrize(
    ("axis", "interleave", "wanted"),
    # coremltools' documentation of concat, its example of two inputs (3, 2).
    [
        (0, False, [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]),
        (0, True, [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]]),
        (-1, True, [[1, 7, 2, 8], [3, 9, 4, 10], [5, 11, 6, 12]]),
    ],
)
def test_concat_interleaves_as_documented(axis: int, interleave: bool, wanted: list[list[int]]) -> None:
    values = [torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[7, 8], [9, 10], [11, 12]])]
    assert OPERATORS["concat"]({"values": values, "axis": axis, "interleave": interleave}).tolist() == wanted


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("gather", {"axis": -1, "indices": [[0, -3], [2, 1]]}),
        ("gather", {"axis": 2, "batch_dims": 1, "indices": [[0, 2, 2, 1], [1, 0, 2, 0]]}),
        ("gather", {"axis": 1, "batch_dims": 1, "indices": [[3], [0]]}),
        ("gather", {"axis": 2, "batch_dims": 2, "indices": [[0, 1, 2, 0], [2, 1, 0, 0]]}),
        ("gather", {"axis": 0, "indices": 1}),
    ],
)
def test_gathers_are_those_that_coremltools_computes(operator: str, arguments: dict[str, Any]) -> None:
    from coremltools.converters.mil.mil.ops.defs._utils import compute_gather

    x = torch.arange(24.0).reshape(2, 4, 3)
    indices = torch.tensor(arguments["indices"])
    axis, batch_dims = arguments["axis"], arguments.get("batch_dims", 0)
    wanted = compute_gather(params=x.numpy(), indices=indices.numpy(), axis=axis, batch_dims=batch_dims)
    got = OPERATORS[operator]({"x": x, **arguments, "indices": indices})
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(got.numpy(), wanted)


def test_gathers_of_single_values_and_points_follow_their_documentation() -> None:
    x = torch.arange(24.0).reshape(2, 4, 3)
    indices = torch.tensor([[[2, 0, 1]], [[1, -1, 3]]])
    along = OPERATORS["gather_along_axis"]({"x": x, "indices": indices, "axis": 1})
    np.testing.assert_array_equal(along.numpy(), np.take_along_axis(x.numpy(), indices.numpy(), 1))
    points = torch.tensor([[1, 3], [0, 2]])
    assert torch.equal(OPERATORS["gather_nd"]({"x": x, "indices": points}), torch.stack([x[1, 3], x[0, 2]]))
    by_batch = OPERATORS["gather_nd"]({"x": x, "indices": torch.tensor([[1, 2], [0, 2]]), "batch_dims": 1})
    assert by_batch.tolist() == [x[0, 1, 2].item(), x[1, 0, 2].item()]


SCATTERED = {  # of 1, 2, 3 and 4, 5, 6, its columns 2 and 0 with 10, 20 and 30, 40
    "update": [[20, 2, 10], [40, 5, 30]],
    "add": [[21, 2, 13], [44, 5, 36]],
    "sub": [[-19, 2, -7], [-36, 5, -24]],
    "mul": [[20, 2, 30], [160, 5, 180]],
    "div": [[0.05, 2, 0.3], [0.1, 5, 0.2]],
    "max": [[20, 2, 10], [40, 5, 30]],
    "min": [[1, 2, 3], [4, 5, 6]],
}


@pytest.mark.parametrize("mode", SCATTERED)
def test_scatters_combine_as_documented(mode: str) -> None:
    data = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    given = {"data": data, "updates": torch.tensor([[10.0, 20], [30, 40]]), "mode": mode}
    for operator, rest in {
        "scatter": {"indices": torch.tensor([2, 0]), "axis": 1},
        "scatter_along_axis": {"indices": torch.tensor([[2, 0], [2, 0]]), "axis": -1},
        "scatter_nd": {"indices": torch.tensor([[[0, 2], [0, 0]], [[1, 2], [1, 0]]])},
    }.items():
        torch.testing.assert_close(OPERATORS[operator]({**given, **rest}), torch.tensor(SCATTERED[mode]).float())
    assert data.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_scatters_to_one_place_twice_add_up_or_are_not_judged() -> None:
    given = {"data": torch.zeros(2), "updates": torch.tensor([1.0, 2.0]), "indices": torch.tensor([1, 1]), "axis": 0}
    assert OPERATORS["scatter"]({**given, "mode": "add"}).tolist() == [0, 3]
    with pytest.raises(UnknownOperatorError, match="scatter by update to one place twice"):
        OPERATORS["scatter"]({**given, "mode": "update"})


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("gather", {"indices": [4]}),
        ("gather", {"indices": [-1], "validate_indices": False}),
        ("gather_along_axis", {"indices": [[-5]]}),
        ("gather_nd", {"indices": [[-1]]}),
    ],
)
def test_an_index_whose_meaning_is_undefined_is_not_judged(operator: str, arguments: dict[str, Any]) -> None:
    given = {"x": torch.zeros(4, 1), **arguments, "indices": torch.tensor(arguments["indices"])}
    with pytest.raises(UnknownOperatorError, match="gather"):
        OPERATORS[operator](given)


def test_image_channels_are_swapped_where_the_file_wants_blue_first() -> None:
    program = Program(input_name="x", input_dtype=torch.float32, is_bgr=True, output_name="x", labels=None, steps=())
    images = torch.arange(3.0).reshape(1, 3, 1, 1)
    assert program.evaluate(images).flatten().tolist() == [2.0, 1.0, 0.0]
