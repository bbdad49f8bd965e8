#!/bin/sh
# The Android sources, compiled and tested on a desk; see desk/test.py. Run from anywhere; make android-test calls it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# Android's library is set up in the tests' own cache, so that `verify` and `bench` of this user do not find it.
exec env UDACISENSE_CACHE="${UDACISENSE_TESTS_CACHE:-$here/../tests/.cache}" PYTHONPATH="$here/.." OMP_NUM_THREADS=1 "${PYTHON:-$here/../.venv/bin/python}" "$here/desk/test.py" "$@"
