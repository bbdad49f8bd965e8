#!/bin/sh
# The Android sources, compiled and tested on a desk; see desk/test.py. Run from anywhere; make android-test calls it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec env PYTHONPATH="$here/.." OMP_NUM_THREADS=1 "${PYTHON:-$here/../.venv/bin/python}" "$here/desk/test.py" "$@"
