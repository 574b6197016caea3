"""OpenMoji drawings as pictures: which there are, what they are called, how they are rendered.

Source: the npm package `openmoji` 17 (https://openmoji.org, CC BY-SA 4.0). `black/svg/X.svg` and
`color/svg/X.svg` are the same drawing as line art and in colour, on the same 72 x 72 canvas.
"""

import io
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageColor

SUBJECTS_FILE = Path(__file__).with_name("subjects.txt")

# Letters, signs, flags and skin tones are no drawings of a thing.
LEFT_OUT_GROUPS = {"flags", "component", "extras-unicode"}
LEFT_OUT_SUBGROUPS = set(
    "alphanum keycap brand ui-element flags regional-indicator geometric punctuation math currency "
    "av-symbol arrow other-symbol transport-sign gender queer-symbols interaction family".split()
)

# Light, middle and dark of each paint that the base model learns drawings in; mostly OpenMoji's own colours.
PAINTS = {
    "red": ("#EA5A47", "#D22F27", "#781E32"),
    "yellow": ("#FCEA2B", "#F1B31C", "#E27022"),
    "green": ("#B1CC33", "#5C9E31", "#186648"),
    "blue": ("#92D3F5", "#61B2E4", "#1E50A0"),
    "purple": ("#B399C8", "#8967AA", "#5C4278"),
    "pink": ("#FFA7C0", "#E67A94", "#B0455F"),
    "brown": ("#D6A66B", "#A57939", "#6A462F"),
}
HEX_COLOR = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")


@dataclass(frozen=True)
class Drawing:
    """One OpenMoji drawing: its code point(s), its annotation in lower case and its tags."""

    hexcode: str
    name: str
    tags: tuple[str, ...]
    author: str


def list_drawings(entries: list[dict]) -> list[Drawing]:
    """All drawings of things among the entries of the npm package's data/openmoji.json, in their order."""
    drawings, seen = [], set()
    for entry in entries:
        name = entry["annotation"].lower().replace("“", "").replace("”", "")
        if entry["skintone"] or entry["group"] in LEFT_OUT_GROUPS or entry["subgroups"] in LEFT_OUT_SUBGROUPS:
            continue
        if name in seen:  # a few names are drawn twice; the first is Unicode's own
            continue
        seen.add(name)
        tags = tuple(t.strip() for t in f"{entry['tags']},{entry['openmoji_tags']}".split(",") if t.strip())
        drawings.append(Drawing(entry["hexcode"], name, tags, entry["openmoji_author"]))
    return drawings


def flash_subjects() -> list[str]:
    """Names of the sample drawings, in the list's order."""
    lines = SUBJECTS_FILE.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def paint_tone(luma: float, paint: str) -> str:
    """The paint's tone for a luma of 0 to 1: from half its dark through dark, middle and light half way to white.

    Lumas that differ stay apart, so that a light sign on a light plate does not vanish.
    """
    light, middle, dark = (np.array(ImageColor.getrgb(tone)) for tone in PAINTS[paint])
    knots = np.array([dark / 2, dark, middle, light, (light + 255) / 2])
    channels = [np.interp(luma, (0, 0.25, 0.5, 0.75, 1), knots[:, channel]) for channel in range(3)]
    return "#" + "".join(f"{round(channel):02X}" for channel in channels)


def repaint_svg(svg: str, paint: str, rng: random.Random) -> str:
    """The SVG's text in the tones of one paint: black stays, other colours become a tone by their luma.

    At random all of them lighter or darker, and white painted too, so that what is drawn says nothing of its
    colour and little of how light it is.
    """
    shift, paint_white = rng.choice((-1, 0, 0, 1)), rng.random() < 0.5

    def tone(match: re.Match) -> str:
        luma = ImageColor.getcolor(match[0], "L") / 255
        if luma < 0.08:
            return "#000000"
        if luma > 0.97 and not paint_white:
            return "#FFFFFF"
        return paint_tone(0.1 + 0.8 * luma + 0.1 * shift, paint)

    return HEX_COLOR.sub(tone, svg)


def render_svg(svg: str, size: int) -> Image.Image:
    """The SVG's text on white, RGB, (size, size)."""
    rgba = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))))
    on_white = Image.new("RGBA", rgba.size, "white")
    on_white.alpha_composite(rgba.convert("RGBA"))
    return on_white.convert("RGB")


Box = tuple[int, int, int, int]  # left, top, right, bottom in px


def read_svg(package: Path, drawing: Drawing, kind: str) -> str:
    """The text of the drawing's SVG; kind: color or black."""
    return (package / f"{kind}/svg/{drawing.hexcode}.svg").read_text(encoding="utf-8")


def render_pair(package: Path, drawing: Drawing, size: int) -> tuple[Image.Image, Image.Image, Box]:
    """The drawing in colour and as line art, both RGB (size, size), and the box around both in pixels."""
    color = render_svg(read_svg(package, drawing, "color"), size)
    black = render_svg(read_svg(package, drawing, "black"), size)
    painted = (np.minimum(np.asarray(color), np.asarray(black)) < 250).any(axis=2)
    rows, columns = painted.any(axis=1).nonzero()[0], painted.any(axis=0).nonzero()[0]
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return color, black, box
