"""The kinds of faults that ``faults.py`` injects, in the order of its table."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from fault_damage import damaged
from fault_device import pull_damaged, pull_on_full_disk, pull_stopped, two_pulls
from fault_scene import Answer, Scene
from fault_stops import clock_jumps, full_disk, interrupt, interrupted, kill, read_only, two_at_once


@dataclass(frozen=True)
class Kind:
    """One row of the campaign."""

    title: str
    count: int
    inject: Callable[[Scene, random.Random], Answer]


_EVALUATE = "evaluate {w}/base/artifact --data {w}/shapes"
_RESUME = "train --data {w}/shapes --model tiny --resolution 32 --epochs 3 -o {w}/base"
_REPORT = "report {w}/base {w}/p2 {w}/bundle {w}/bundle.verify.json {w}/bundle.bench.json -o {o}/report.md"

KINDS: dict[str, Kind] = {
    "damage-bundle": Kind(
        "a file of a bundle, `inspect`", 260, damaged("bundle/*/*", "inspect {w}/bundle", recorded=True)
    ),
    "damage-labels": Kind(
        "the labels of a bundle, `inspect`", 20, damaged("bundle/labels.txt", "inspect {w}/bundle", recorded=True)
    ),
    "damage-verify": Kind(
        "a file of a bundle, `verify`", 30, damaged("bundle/*/*", "verify {w}/bundle", recorded=True)
    ),
    "damage-variant": Kind(
        "an exported file, `inspect`", 60, damaged("bundle/model-*", "inspect {w}/bundle", recorded=True)
    ),
    "damage-manifest": Kind(
        "a manifest, `inspect`", 160, damaged("bundle/manifest.json", "inspect {w}/bundle", recorded=False)
    ),
    "damage-zip": Kind(
        "a zipped bundle, `inspect`", 80, damaged("bundle.zip", "inspect {w}/bundle.zip", recorded=False)
    ),
    "damage-preflight": Kind(
        "an exported file, `preflight`",
        80,
        damaged("bundle/*.ptl", "preflight {w}/bundle/model-ptl-fp32.ptl", recorded=False),
    ),
    "damage-onnx": Kind(
        "an ONNX file, `preflight`",
        60,
        damaged("bundle/*fp32.onnx", "preflight {w}/bundle/model-onnx-fp32.onnx", recorded=False),
    ),
    "damage-ort": Kind(
        "an ORT file, `preflight`",
        60,
        damaged("bundle/*fp32.ort", "preflight {w}/bundle/model-ort-fp32.ort", recorded=False, forks=True),
    ),
    "damage-weights": Kind(
        "an artifact's weights, `evaluate`", 50, damaged("base/artifact/model.safetensors", _EVALUATE, recorded=True)
    ),
    "damage-artifact": Kind(
        "an artifact's record, `evaluate`", 50, damaged("base/artifact/artifact.json", _EVALUATE, recorded=False)
    ),
    "damage-checkpoint": Kind(
        "a training checkpoint, `train`", 40, damaged("base/training/checkpoint.safetensors", _RESUME, recorded=True)
    ),
    "damage-image": Kind("a photo, `evaluate`", 50, damaged("shapes/test/*/*.png", _EVALUATE, recorded=False)),
    "damage-records": Kind(
        "a record of `verify`, `bench`, `compress`, `report`", 80, damaged("bundle.*.json", _REPORT, recorded=False)
    ),
    "damage-result": Kind("a pipeline's result, `report`", 30, damaged("p2/result.json", _REPORT, recorded=False)),
    "damage-gate": Kind(
        "a record of `verify`, `gate`",
        40,
        damaged("bundle.verify.json", "gate {w}/bundle -o {o}/g.json", recorded=False),
    ),
    "damage-coreml": Kind(
        "a Core ML package, `preflight`",
        60,
        damaged(
            "coreml/model-coreml-fp16.mlpackage/**/*",
            "preflight {w}/coreml/model-coreml-fp16.mlpackage",
            recorded=False,
        ),
    ),
    "damage-app": Kind("an app, `preflight`", 80, damaged("app.apk", "preflight {w}/app.apk", recorded=False)),
    "damage-requirements": Kind(
        "the requirements of `gate`",
        80,
        damaged("gate.toml", "gate {w}/bundle --config {w}/gate.toml -o {o}/g.json", recorded=False),
    ),
    "damage-evaluation": Kind(
        "an evaluation, `report`",
        40,
        damaged("base.evaluation.json", "report {w}/base {w}/base.evaluation.json -o {o}/report.md", recorded=False),
    ),
    "damage-techniques": Kind(
        "the record of `techniques`, `report`",
        60,
        damaged("techniques/techniques.json", "report {w}/techniques -o {o}/report.md", recorded=False),
    ),
    "damage-phone": Kind(
        "a record of a phone, `report`",
        60,
        damaged("phone/*.json", "report {w}/base {w}/bundle {w}/phone -o {o}/report.md", recorded=False),
    ),
    "kill-train": Kind("kill -9, `train`", 30, interrupted("train", kill)),
    "kill-compress": Kind("kill -9, `compress`", 15, interrupted("compress", kill)),
    "kill-report": Kind("kill -9, `report`", 10, interrupted("report", kill)),
    "sigint-train": Kind("Ctrl-C once or twice, `train`", 15, interrupted("train", interrupt)),
    "sigint-compress": Kind("Ctrl-C once or twice, `compress`", 8, interrupted("compress", interrupt)),
    "full-train": Kind("full disk, `train`", 15, full_disk("train", 1_800_000)),
    "full-compress": Kind("full disk, `compress`", 8, full_disk("compress", 2_500_000)),
    "full-report": Kind("full disk, `report`", 8, full_disk("report", 60_000)),
    "readonly-train": Kind("disk turns read-only, `train`", 10, read_only("train")),
    "readonly-compress": Kind("disk turns read-only, `compress`", 5, read_only("compress")),
    "two-train": Kind("two runs on one folder, `train`", 8, two_at_once("train")),
    "two-compress": Kind("two runs on one folder, `compress`", 4, two_at_once("compress")),
    "kill-export": Kind("kill -9, `export`", 4, interrupted("export", kill)),
    "kill-verify": Kind("kill -9, `verify`", 4, interrupted("verify", kill)),
    "kill-bench": Kind("kill -9, `bench`", 3, interrupted("bench", kill)),
    "sigint-export": Kind("Ctrl-C once or twice, `export`", 3, interrupted("export", interrupt)),
    "sigint-verify": Kind("Ctrl-C once or twice, `verify`", 3, interrupted("verify", interrupt)),
    "sigint-bench": Kind("Ctrl-C once or twice, `bench`", 2, interrupted("bench", interrupt)),
    "full-export": Kind("full disk, `export`", 3, full_disk("export", 1_200_000)),
    "two-export": Kind("two runs on one folder, `export`", 2, two_at_once("export")),
    "clock-train": Kind("the clock jumps, `train`", 3, clock_jumps("train")),
    # Not `export`: it waits for its workers, and under libfaketime Python's sleep itself fails (EINVAL).
    "clock-compress": Kind("the clock jumps, `compress`", 2, clock_jumps("compress")),
    "clock-report": Kind("the clock jumps, `report`", 1, clock_jumps("report")),
    "kill-pull": Kind("kill -9, `device pull`", 40, pull_stopped(kill)),
    "sigint-pull": Kind("Ctrl-C once or twice, `device pull`", 10, pull_stopped(interrupt)),
    "full-pull": Kind("full disk, `device pull`", 8, pull_on_full_disk),
    "two-pull": Kind("two runs on one folder, `device pull`", 4, two_pulls),
    "damage-pull": Kind("a result on the phone, `device pull`", 40, pull_damaged),
}
