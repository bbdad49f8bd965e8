"""Give the tests the environment of ``.pte`` and ``.tflite``: the user's own where it is whole, else one of theirs.

Run once: ``make toolchain``. With ``--there`` nothing is downloaded: it ends with 1 where there is none yet.
"""

from __future__ import annotations

import os
import sys

from tests_cache import CACHE

from exporters.toolchain.setup import add_toolchain, folder_of, unusable
from udacisense.base.files import remove
from udacisense.errors import InputError


def main() -> None:
    """Set it up where the tests look for it."""
    theirs = None if unusable("litert") else folder_of("litert")
    os.environ["UDACISENSE_CACHE"] = str(CACHE)
    ours = folder_of("litert")
    if (reason := unusable("litert")) is not None:
        if theirs is None and "--there" in sys.argv:
            sys.exit(f"With UDACISENSE_CACHE={CACHE}, {reason}.")
        # A link is taken away by itself: what it led to is the user's.
        ours.unlink() if ours.is_symlink() else remove(ours)
        if theirs is None:
            add_toolchain("litert")
        else:
            ours.parent.mkdir(parents=True, exist_ok=True)
            ours.symlink_to(theirs)
    sys.stdout.write(f"{ours} is ready.\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as exc:
        sys.exit(str(exc))
