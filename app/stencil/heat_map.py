"""A picture of what will not work, at the stencil's size: thin lines in red, close gaps in orange, joins in green."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from app.stencil.findings import Findings, sentence
from app.stencil.ink import Stencil
from app.stencil.options import Options
from app.stencil.widths import Place

INK, THIN, CLOSE, JOINED = (90, 90, 90), (215, 0, 30), (255, 140, 0), (0, 140, 60)
RING_MM = 2.0  # radius around a place, so that a small one is seen
LEGEND_MM, LEAST_WIDTH_MM, TEXT_MM = 4.5, 80, 2.8


def draw_heat_map(stencil: Stencil, findings: Findings, options: Options) -> Image.Image:
    mm = options.px_per_mm
    height, width = stencil.level.shape
    picture = Image.fromarray(np.where(stencil.ink, INK[0], 255).astype(np.uint8)).convert("RGB")
    paint(picture, findings.thin, stencil.ink, THIN, mm)
    paint(picture, findings.close, ~stencil.ink, CLOSE, mm)
    pen = ImageDraw.Draw(picture)
    for stroke in stencil.joins:
        ends = [tuple(map(float, end[::-1])) for end in (stroke.start, stroke.end)]
        pen.line(ends, JOINED, max(1, round(2 * stroke.radius)))
        ring(pen, (stroke.start + stroke.end) / 2, JOINED, mm)
    rows = [
        (colour, f"{text}: {len(places)}")
        for colour, text, places in (
            (THIN, f"thinner than {options.thin_mm:g} mm", findings.thin),
            (CLOSE, f"closer than {options.min_gap_mm:g} mm", findings.close),
            (JOINED, f"breaks up to {options.close_gaps_mm:g} mm, joined", stencil.joins),
        )
        if places
    ]
    page_width = max(width, round(LEAST_WIDTH_MM * mm))
    letters = int(page_width / (0.5 * TEXT_MM * mm))
    said = textwrap.wrap(sentence(findings, len(stencil.joins), options), letters)
    page = Image.new("RGB", (page_width, height + round((len(rows) + len(said) + 1) * LEGEND_MM * mm)), "white")
    page.paste(picture)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(TEXT_MM * mm)
    top = height + LEGEND_MM * mm / 2
    for colour, text in [*rows, *((None, line) for line in said)]:
        if colour:
            pen.rectangle((mm, top, 4 * mm, top + TEXT_MM * mm), colour)
        pen.text((5 * mm if colour else mm, top + TEXT_MM * mm), text, "black", font, "ls")
        top += LEGEND_MM * mm
    return page


def paint(picture: Image.Image, places: list[Place], within: np.ndarray, colour: tuple, mm: float) -> None:
    """Colour the narrow stretches, and draw a ring around each place's narrowest point."""
    mask = Image.new("1", picture.size)
    pen = ImageDraw.Draw(mask)
    for place in places:
        for (y, x), width in zip(place.middles, place.widths, strict=True):
            radius = width / 2 + 1
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), 1)
    picture.paste(colour, mask=Image.fromarray(np.asarray(mask) & within))
    pen = ImageDraw.Draw(picture)
    for place in places:
        ring(pen, place.narrowest, colour, mm)


def ring(pen: ImageDraw.ImageDraw, middle: np.ndarray, colour: tuple, mm: float) -> None:
    y, x = map(float, middle)
    radius = RING_MM * mm
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=max(1, round(mm / 4)))
