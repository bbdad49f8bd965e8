"""Show one fault again: run the file beside this script on the inputs beside it.

``verify --locate --reproducer`` copies this file as it is; everything that differs from case to case, every name out
of a bundle too, is data in ``reproduce.json``. Run it as ``python reproduce.py``; a
``.tflite`` or ``.pte`` wants the Python of its toolchain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Answer = Callable[[Any], Any]  # float32 (n, 3, H, W) to float32 (n, C)


def _torchscript(path: str) -> Answer:
    import torch

    model = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return lambda batch: model(torch.from_numpy(batch)).detach().numpy()


def _ptl(path: str) -> Answer:
    import torch
    from torch.jit.mobile import _load_for_lite_interpreter

    model = _load_for_lite_interpreter(path)  # type: ignore[no-untyped-call]
    return lambda batch: model(torch.from_numpy(batch)).detach().numpy()


def _onnx(path: str) -> Answer:
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def _coreml(path: str) -> Answer:
    import torch

    from harness.runners.mil.program import read_program

    program = read_program(Path(path))
    return lambda batch: program.evaluate(torch.from_numpy(batch)).numpy()


def _tflite(path: str) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    given, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def answer(batch: Any) -> Any:
        interpreter.set_tensor(given, np.ascontiguousarray(batch.transpose(0, 2, 3, 1)))
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return answer


def _executorch(path: str) -> Answer:
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda batch: method.execute([torch.from_numpy(batch)])[0].numpy().copy()


LOADERS = {
    "torchscript": _torchscript,
    "ptl": _ptl,
    "onnx": _onnx,
    "ort": _onnx,
    "coreml": _coreml,
    "tflite": _tflite,
    "executorch": _executorch,
}


def main(folder: Path) -> None:
    """Print how far each answer is from what was expected."""
    case = json.loads((folder / "reproduce.json").read_text(encoding="utf-8"))
    print(f"{case['variant']}: {case['reason']}")
    if case["format"] not in LOADERS:
        raise SystemExit(f"This script cannot run a file of the format {case['format']}.")
    if case["engine"]:
        import torch

        torch.backends.quantized.engine = case["engine"]
    answer = LOADERS[case["format"]](str(folder / case["file"]))
    inputs = np.load(folder / "inputs.npy", allow_pickle=False)
    got = np.concatenate([answer(np.repeat(image[None], case["batch"], axis=0))[:1] for image in inputs])
    if not (folder / "expected.npy").exists():
        raise SystemExit(f"It answered, and nothing was kept to hold it against: top-1 {got.argmax(axis=1)}.")
    expected = np.load(folder / "expected.npy", allow_pickle=False)
    print("max |difference| an image:", np.abs(got - expected).max(axis=1))
    print("top-1 expected:", expected.argmax(axis=1), "got:", got.argmax(axis=1))


if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
