"""Draw docs/strip.png, the README's first picture, from the run in this folder: from drawings to stencils.

    python docs/make_strip.py

Drawings of the sample, then prompts of the comparison that the miniature draws well, each with the first seed: by the
base, by the adapter `blip`, and the adapter's picture as a stencil. plots/comparison.png has all prompts.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image, ImageDraw, ImageFont  # noqa: E402

from app.run_tables import read_pictures  # noqa: E402
from app.runs import workspace  # noqa: E402
from app.stencil.ink import to_image, trace  # noqa: E402
from app.stencil.options import Options  # noqa: E402

DRAWINGS = ("owl", "anchor", "butterfly", "skull")
PROMPTS = ("a wolf", "a deer", "a snail", "a tropical fish")  # as many, in two columns
SIDE, GAP, BETWEEN, TITLE = 220, 8, 44, 52  # px
ARROW, TEXT = "#b3b3b3", "#333333"


def pictures(root: Path, drawings: tuple[str, ...] = DRAWINGS) -> dict[str, list[Image.Image]]:
    """What stands under each title."""
    table = read_pictures(workspace(root))
    table = table[(table["seed"] == table["seed"].iloc[0]) & table["prompt"].str.split(",").str[0].isin(PROMPTS)]
    base, adapter = ([root / path for path in table[table["name"] == name]["path"]] for name in ("base", "blip"))
    return {
        "your drawings": [Image.open(root / f"data/raw/flash/{name}.png") for name in drawings],
        "the base model": [Image.open(path) for path in base],
        "with your adapter": [Image.open(path) for path in adapter],
        "as stencils": [to_image(trace(path, Options(width_mm=SIDE / 300 * 25.4 * 2)).ink) for path in adapter],
    }


def cell(picture: Image.Image) -> Image.Image:
    """The picture on white, SIDE px wide and high."""
    picture = picture.convert("RGBA")
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    return flat.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def strip(columns: dict[str, list[Image.Image]]) -> Image.Image:
    """Two by two pictures under each title, an arrow between one title's and the next."""
    block = 2 * SIDE + GAP
    image = Image.new("RGB", (len(columns) * (block + BETWEEN) - BETWEEN, TITLE + block), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(26)
    for column, (title, shown) in enumerate(columns.items()):
        left = column * (block + BETWEEN)
        pen.text((left + block / 2, TITLE / 2), title, TEXT, font, "mm")
        for i, picture in enumerate(shown):
            image.paste(cell(picture), (left + i % 2 * (SIDE + GAP), TITLE + i // 2 * (SIDE + GAP)))
        if column:
            middle, tip, half = TITLE + block / 2, left - 8, 13
            pen.polygon([(tip - 22, middle - half), (tip, middle), (tip - 22, middle + half)], ARROW)
    return image


if __name__ == "__main__":
    strip(pictures(ROOT)).quantize(256).save(ROOT / "docs/strip.png", optimize=True)
