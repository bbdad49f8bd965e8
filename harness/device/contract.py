"""What the app and the desk agree on; ``android_demo/README.md`` says the same in words."""

from __future__ import annotations

from typing import Literal

from udacisense.base.records import record

PACKAGE = "org.udacisense.demo"
ACTIVITY = f"{PACKAGE}/.OrderActivity"
FILES = f"/sdcard/Android/data/{PACKAGE}/files"  # the app's own folder, which adb reaches too
BUNDLE = f"{FILES}/bundle"
RESULTS = f"{FILES}/results"
RUNNER = "android-app"  # RunSpec.runner of what the app measured
FORMATS = ("ptl", "onnx", "ort", "tflite")  # what the app runs
FAILED = ".failed.json"  # <order id>.failed.json: the app could not do it

Command = Literal["selftest", "bench"]


@record
class OrderFailure:
    """``<order>.failed.json``: why the app gave no result."""

    order: str
    error: str
