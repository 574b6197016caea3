"""A picture's greys as dots or hatching that can be printed and tattooed, apart from its lines."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates
from skimage.filters import threshold_multiotsu

from app.stencil.options import Options
from tattoo_lora.errors import UserError

SMALLEST_MM, LARGEST = 0.15, 0.4  # radius of a dot; the larger one as a share of the pitch, so that dots stay apart
HATCH_MM = 0.3  # width of a hatch's line
LEAST_AREA = 0.001  # of the picture
LIGHTEST = 95  # percentile
RIM_MM = 0.4  # around lines, whose edges are grey but no shade
FAINT, CROSSED = 0.12, 0.5  # tones from which there is shading, and a second hatching across the first


def split_greys(grey: np.ndarray) -> tuple[float, float, float]:
    """The usual ink, shade and paper of a picture in greys (0 to 1); UserError if it has fewer than three tones."""
    try:
        first, second = threshold_multiotsu(grey, classes=3)
    except ValueError:
        raise UserError("nothing to shade: the picture has no greys") from None
    classes = grey <= first, (grey > first) & (grey <= second), grey > second
    # Between ink and paper there is always some grey at the edges, but no area of it.
    if not all(group.any() for group in classes) or binary_erosion(classes[1], np.ones((5, 5))).mean() < LEAST_AREA:
        raise UserError("nothing to shade: the picture has no greys")
    ink, shade = (float(np.median(grey[group])) for group in classes[:2])
    return ink, shade, float(np.percentile(grey[classes[2]], LIGHTEST))  # light greys are in the third class too


def shade(grey: Image.Image, ink: np.ndarray, options: Options) -> str:
    """The shading of a picture in greys as SVG's elements, in pixels of the stencil; its ink (H, W) is left free."""
    source = np.asarray(grey) / 255
    darkest, _, paper = split_greys(source)
    height, width = ink.shape
    tones = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    pitch = options.shade_mm * options.px_per_mm
    blur = pitch / 4
    lines = gaussian_filter(ink.astype(np.float32), RIM_MM * options.px_per_mm / 2) > 0.02
    weight = gaussian_filter((~lines).astype(np.float32), blur)
    tones = gaussian_filter(np.where(lines, 0, tones), blur) / np.maximum(weight, 1e-3)
    tones = np.clip((paper - tones) / (paper - darkest), 0, 1)
    tones[lines] = 0
    return SHADINGS[options.shading](tones, pitch, options.px_per_mm)


def dots(tones: np.ndarray, pitch: float, px_per_mm: float) -> str:
    """A dot for each place of a grid turned by 45 degrees, as large as the tone is dark."""
    height, width = tones.shape
    y, x = (axis.ravel() for axis in np.mgrid[0 : height : pitch / np.sqrt(2), 0 : width : pitch * np.sqrt(2)])
    x = x + (np.rint(y / (pitch / np.sqrt(2))) % 2) * pitch / np.sqrt(2)
    tone = map_coordinates(tones, (y, x), order=1, cval=0)
    radius = np.clip(pitch * np.sqrt(tone / np.pi), SMALLEST_MM * px_per_mm, LARGEST * pitch)
    kept = tone >= FAINT
    circles = zip(x[kept], y[kept], radius[kept], strict=True)
    return "\n".join(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{r:.1f}"/>' for cx, cy, r in circles)


def hatching(tones: np.ndarray, pitch: float, px_per_mm: float) -> str:
    """Parallel lines where there is a tone, and others across them where it is dark."""
    height, width = tones.shape
    reach = np.hypot(height, width) / 2
    along = np.arange(-reach, reach, 1.0)
    lines = []
    for degrees, least in ((45, FAINT), (-45, CROSSED)):
        way = np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
        for offset in np.arange(-reach, reach, pitch):
            points = np.array([height / 2, width / 2]) + offset * np.array([way[1], -way[0]]) + along[:, None] * way
            dark = map_coordinates(tones, points.T, order=1, cval=0) >= least
            ends = np.flatnonzero(np.diff(np.r_[False, dark, False])).reshape(-1, 2)
            for start, stop in ends:
                if stop - start > pitch / 2:
                    (y0, x0), (y1, x1) = points[start], points[stop - 1]
                    lines.append(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}")
    return f'<path fill="none" stroke="black" stroke-width="{HATCH_MM * px_per_mm:.1f}" d="{"".join(lines)}"/>'


SHADINGS: dict[str, Callable[[np.ndarray, float, float], str]] = {"dots": dots, "hatching": hatching}
