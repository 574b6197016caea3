"""Take the pictures of docs/dashboard.md anew: of the run in this folder and its experiments, which must be there.

python docs/dashboard/take_pictures.py              all
python docs/dashboard/take_pictures.py start draw   those views, on desktop and phone
"""

import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from PIL import Image  # noqa: E402
from test_browser import CHROMIUM, DESKTOP, PHONE, Visitor, choose, draw, served, sync_api, try_on  # noqa: E402

VIEWS = {  # a picture's name, the place and its part, and the height in px
    "start": ("Start", None, 800),
    "train": ("Train", "Train", 900),
    "drawings": ("Train", "Drawings", 900),
    "captions": ("Train", "Captions", 900),
    "draw": ("Draw", None, 900),
    "picture": ("Draw", None, 800),
    "stencil": ("Print", "Stencil", 1150),
    "flash": ("Print", "Flash sheet", 1350),
    "tryon": ("Print", "On skin", 1250),
    "verdict": ("Compare", "Verdict", 1500),
    "experiments": ("Compare", "Experiments", 1500),
    "curves": ("Compare", "Curves", 1050),
    "pictures": ("Compare", "Pictures", 1000),
}
ON_PHONE, PHONE_HEIGHT = ("start", "draw", "stencil", "tryon"), 1300
PROMPT = "a wolf, minimal line-art tattoo, stencil, high-contrast"


def show(visitor: Visitor, name: str) -> None:
    """The view as a user would have it, with something drawn, kept and printed."""
    place, part, _ = VIEWS[name]
    page = visitor.page
    visitor.go_to(place)
    if part:
        choose(visitor, part)
    if name == "start":
        visitor.expect("Everything is up to date.")
    if name == "draw":
        draw(visitor, PROMPT, 8)
        for _ in range(4):
            page.get_by_role("button", name="☆ Keep").first.click()
            visitor.settle()
    if name == "picture":
        page.get_by_role("button", name="More", exact=True).nth(2).click()
        visitor.expect("Draw it again to the byte")
    if name == "stencil":
        page.get_by_role("button", name="Make the stencil").click()
        visitor.expect("Print the PDF at 100%")
    if name == "flash":
        page.get_by_role("button", name="Make the sheet").click()
        visitor.expect("Print it at 100%")
    if name == "tryon":
        try_on(visitor)
    if name == "experiments":
        visitor.expect("Params that differ", timeout=120)
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
        visitor.expect("Bring your drawings")
        width = device["viewport"]["width"]
        for name, (_, _, height) in VIEWS.items():
            if name not in (sys.argv[1:] or VIEWS) or (prefix and name not in ON_PHONE):
                continue
            visitor.page.set_viewport_size(device["viewport"])
            show(visitor, name)
            take(visitor, ROOT / f"docs/dashboard/{prefix}{name}.png", width, PHONE_HEIGHT if prefix else height)
            if name == "picture":
                visitor.page.keyboard.press("Escape")
        assert visitor.wrong == [], visitor.wrong
