"""The Android library's arm64-v8a build under qemu: the answers of a phone. Its speed here means nothing."""

from __future__ import annotations

from functools import partial

from harness.android import runner, setup

unavailable = partial(setup.unusable, "android-arm64")
load = partial(runner.load, "android-arm64")
