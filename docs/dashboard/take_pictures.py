"""Take the pictures of docs/dashboard.md anew: of the run in this folder and an experiment, which must be there.

python docs/dashboard/take_pictures.py
"""

import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from PIL import Image  # noqa: E402
from test_browser import CHROMIUM, DESKTOP, PAGES, PHONE, Visitor, served, sync_api, try_on  # noqa: E402

HEIGHTS = {
    "Overview": 900,
    "Curves": 1000,
    "Gallery": 900,
    "Data": 900,
    "Playground": 1750,
    "Try on": 1100,
    "Compare": 1400,
}
PHONE_HEIGHT = 1300


def show(visitor: Visitor, title: str) -> None:
    """The page as a user would have it, with something drawn in the playground."""
    visitor.go_to(title)
    if title == "Overview":
        visitor.expect("Everything is up to date.")
    if title == "Playground":
        visitor.page.get_by_role("button", name="Draw", exact=False).first.click()
        visitor.expect("Each PNG holds its settings")
        visitor.page.get_by_role("button", name="Make the stencil").click()
        visitor.expect("Print the PDF at 100%")
    if title == "Try on":
        try_on(visitor)
    if title == "Compare":
        visitor.expect("Params that differ")
    visitor.settle()


def take(visitor: Visitor, path: Path, width: int, height: int) -> None:
    visitor.page.set_viewport_size({"width": width, "height": height})
    visitor.page.mouse.move(0, 0)  # no buttons over pictures
    visitor.page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")
    visitor.page.wait_for_timeout(1500)  # charts draw themselves
    picture = Image.open(io.BytesIO(visitor.page.screenshot()))
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path.relative_to(ROOT), flush=True)


with sync_api.sync_playwright() as playwright, served(ROOT) as address:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    for device, prefix in ((DESKTOP, ""), (PHONE, "phone_")):
        visitor = Visitor(browser, address, device)
        visitor.expect("Which is best")
        width = device["viewport"]["width"]
        for title in PAGES:
            visitor.page.set_viewport_size(device["viewport"])
            show(visitor, title)
            height = PHONE_HEIGHT if prefix else HEIGHTS[title]
            name = title.lower().replace(" ", "")
            take(visitor, ROOT / f"docs/dashboard/{prefix}{name}.png", width, height)
        assert visitor.wrong == [], visitor.wrong
