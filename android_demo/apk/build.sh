#!/bin/sh
# The app as a signed, checked APK; see build.py. Run from anywhere; make android-apk calls it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec env OMP_NUM_THREADS=1 "${PYTHON:-$here/../../.venv/bin/python}" "$here/build.py" "$@"
