"""Our ONNX files against what a user gets without us: ``torch.onnx.export`` and a default onnxruntime session.

Run it on a quiet host, from the repository's root: ``.venv/bin/python tests/campaigns/plain_export.py BUNDLE``, where
BUNDLE holds ``.onnx`` files. A process per file and round, shuffled, as a sweep times them; it is no
part of the test run.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from aa_trials import make_job, run

from exporters.bundle.open import Bundle, open_bundle
from exporters.bundle.reference import load_reference
from udacisense.measure.stats import ratio

PLAIN = "plain"


def write_plain(bundle: Bundle, path: Path) -> Path:
    """Export a bundle's reference model as PyTorch's documentation does."""
    model, _ = load_reference(bundle, allow_factory=None)
    example = torch.zeros(1, *bundle.manifest.signature.input_shape[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), str(path), input_names=["input"], output_names=["logits"], dynamo=False)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a plain ONNX export against a bundle's files.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    bundle = open_bundle(given.bundle)
    files = {v.id: bundle.path(v.path) for v in bundle.manifest.variants if v.format == "onnx" and v.path is not None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = folder / "inputs.npy"
        np.save(inputs, np.random.default_rng(1).random(bundle.manifest.signature.input_shape, dtype=np.float32))
        files[PLAIN] = write_plain(bundle, folder / f"{PLAIN}.onnx")
        jobs = {key: make_job(path, inputs, threads=given.threads, min_s=0.4) for key, path in files.items()}
        medians: dict[str, dict[int, float]] = {key: {} for key in jobs}
        for number in range(given.rounds):
            order = list(jobs)
            random.Random(number).shuffle(order)  # noqa: S311 - an order, not a secret
            for key in order:
                medians[key][number] = run(jobs[key])[0]
    for key in jobs:
        found = ratio(medians[PLAIN], medians[key], seed=0)
        assert found is not None
        words = "a tie" if found.is_tie else f"{found.value:.2f} times as fast ({found.low:.2f}-{found.high:.2f})"
        sys.stdout.write(f"{key:<20} {np.median(list(medians[key].values())):.3f} ms  {words}\n")


if __name__ == "__main__":
    main()
