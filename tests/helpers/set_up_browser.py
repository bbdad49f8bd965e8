"""Fetch what the browser tests need and the machine does not bring: axe-core, through npm, into the tests' own cache.

Run once: ``make browser``, which installs playwright (``pip install -e '.[browser]'``) as well. Chromium comes from the
machine's own packages (on Debian: ``apt-get install chromium``), and so does npm.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests_cache import CACHE

VERSION = "4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
AXE = CACHE / "axe.min.js"


def main() -> int:
    """Download, check and keep ``axe.min.js``; 0 where it is in place."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"axe-core@{VERSION}"]
        try:
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            sys.stderr.write("npm is not on this machine (on Debian: apt-get install npm): axe-core was not fetched.\n")
            return 1
        except subprocess.CalledProcessError as exc:
            sys.stderr.write(f"npm pack ended with exit code {exc.returncode}: axe-core was not fetched.\n")
            return 1
        with tarfile.open(Path(folder) / f"axe-core-{VERSION}.tgz") as archive:
            member = archive.extractfile("package/axe.min.js")
            content = b"" if member is None else member.read()
    if hashlib.sha256(content).hexdigest() != SHA256:
        sys.stderr.write("axe.min.js is not the file that was expected: nothing was kept.\n")
        return 1
    CACHE.mkdir(parents=True, exist_ok=True)
    AXE.write_bytes(content)
    sys.stdout.write(f"Kept: {AXE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
