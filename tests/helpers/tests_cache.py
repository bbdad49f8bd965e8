"""Where tests keep what is worth keeping between runs: Android runtimes, adbd, Maven's jars, axe-core."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(os.environ.get("UDACISENSE_TESTS_CACHE") or Path(__file__).resolve().parent.parent / ".cache").resolve()
