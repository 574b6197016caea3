"""What of a stencil will not work at its size: lines too thin, gaps too close; and the size that it needs."""

from dataclasses import dataclass, replace
from math import ceil, inf, sqrt

from PIL import Image

from app.stencil.ink import Stencil, make_stencil
from app.stencil.options import INCH_MM, LIMITS, Options
from app.stencil.widths import FARTHEST, Place, measure, narrow_places
from tattoo_lora.errors import UserError

SLACK = 1.015  # trials are measured against limits that are so much wider
EXACT = 1.02  # how near a width that is enough lies to one that is not
DRAWN = 0.9  # of the width that lines are drawn with: all of them measure more
TRIAL_PIXELS = 1.5e6  # of a stencil that is made only to be measured
MOST_SEARCHED = 4e6  # pixels
MOST_TRIALS = 10


@dataclass(frozen=True)
class Findings:
    """Places that are too narrow, in the stencil's pixels, and the smallest width of the print without any."""

    thin: list[Place]
    close: list[Place]
    needs_mm: float | None  # None: no width is enough that can be printed


def examine(stencil: Stencil, options: Options) -> Findings:
    """What is too narrow in the stencil that was made with these options."""
    thin, close, grows = narrow(stencil, options)
    if not thin and not close and stencil.level.size > MOST_SEARCHED:
        return Findings(thin, close, options.width_mm)  # whether less is enough would take many seconds
    return Findings(thin, close, smallest_width(stencil.picture, options, not thin and not close, grows))


def narrow(stencil: Stencil, options: Options) -> tuple[list[Place], list[Place], float]:
    """Thin lines, close gaps, and by how much the print should grow (or may shrink) for both to be just wide enough."""
    # Lines whose width is given do not grow with the print: only the distance between their centres does.
    fixed_mm = options.line_mm or options.min_stroke_mm
    thin_mm = options.thin_mm * (DRAWN if fixed_mm * SLACK >= options.thin_mm else 1)
    fixed = fixed_mm * options.px_per_mm
    narrow_ones, grows = [], 0.0
    for level, limit_mm, stays in ((stencil.level, thin_mm, 0), (-stencil.level, options.min_gap_mm, fixed)):
        limit = limit_mm * options.px_per_mm
        measured = measure(level, FARTHEST * limit)
        narrow_ones.append(narrow_places(level, measured, limit))
        places = narrow_ones[-1] or narrow_places(level, measured, limit, FARTHEST)
        if narrow_ones[-1] or not (level is stencil.level and fixed):
            grows = max([grows, *((limit + stays) / (place.width + stays) for place in places)])
    return narrow_ones[0], narrow_ones[1], grows


def smallest_width(picture: Image.Image, options: Options, passes: bool, grows: float) -> float | None:
    """The smallest width of the print in mm, to 2%, at which nothing is too narrow; None if there is none.

    `passes` and `grows` are what was measured at the options' width. Places grow with the print nearly, not exactly:
    small gaps suffer more from the softening. So each estimate is tried.
    """
    if options.line_mm is not None and options.line_mm * SLACK < options.thin_mm:
        return None
    lowest, highest = LIMITS["width_mm"].low, LIMITS["width_mm"].high
    too_small, enough, width_mm = lowest * 0.99, inf, options.width_mm
    for _ in range(MOST_TRIALS):
        if passes:
            enough = min(enough, width_mm)
        else:
            too_small = max(too_small, width_mm)
        if enough <= too_small * EXACT or too_small >= highest:
            break
        width_mm = max(width_mm * grows * 1.005, lowest)  # a little beyond, or it creeps up
        if not too_small < width_mm < enough:
            width_mm = sqrt(too_small * enough) if enough < inf else too_small * 1.1
        width_mm = min(ceil(width_mm * 10) / 10, highest)
        area_mm2 = width_mm**2 * picture.height / picture.width
        trial = replace(
            options,
            width_mm=width_mm,
            dpi=min(options.dpi, sqrt(TRIAL_PIXELS / area_mm2) * INCH_MM),
            thin_mm=options.thin_mm * SLACK,
            min_gap_mm=options.min_gap_mm * SLACK,
        )
        try:
            thin, close, grows = narrow(make_stencil(picture, trial), trial)
        except UserError:  # so small that nothing is left
            passes, grows = False, 1.1
        else:
            passes = not close and (not thin or options.line_mm is not None)  # drawn lines do not grow
    return enough if enough <= highest else None


def sentence(findings: Findings, joins: int, options: Options) -> str:
    """What was found, as one sees it on the heat map."""
    parts = []
    if findings.thin:
        parts.append(f"{counted(len(findings.thin), 'place is', 'places are')} thinner than {options.thin_mm:g} mm")
    if findings.close:
        parts.append(f"{counted(len(findings.close), 'gap', 'gaps')} of less than {options.min_gap_mm:g} mm may close")
    if not parts:
        text = f"all lines and gaps are wide enough at {options.width_mm:g} mm"
        if findings.needs_mm and findings.needs_mm < options.width_mm:
            text += f", and from {findings.needs_mm:g} mm on"
    elif findings.needs_mm is None:
        text = f"no print up to {LIMITS['width_mm'].high:g} mm is large enough; at {options.width_mm:g} mm "
    else:
        text = f"this needs {findings.needs_mm:g} mm; at {options.width_mm:g} mm "
    text += " and ".join(parts)
    return text + (f"; {counted(joins, 'break was', 'breaks were')} joined" if joins else "")


def counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
