"""Take the pictures of the documentation: the top of a report at 1,440 px, into ``docs/pictures/report.png``.

Run: ``.venv/bin/python docs/take_pictures.py REPORT.html``. It needs Chromium and ``pip install -e '.[browser]'``.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parent / "pictures" / "report.png"
WIDTH_PX, HEIGHT_PX = 1440, 1240


def main(report: Path) -> None:
    """Open the report in light colours and keep what the first window shows."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("UDACISENSE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        TARGET.parent.mkdir(exist_ok=True)
        page.screenshot(path=TARGET)
        browser.close()
    sys.stdout.write(f"{TARGET}: {TARGET.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give one report: docs/take_pictures.py REPORT.html")
    main(Path(sys.argv[1]))
