"""Is it line art? What a stencil needs, measured from the pixels alone.

Of each pixel of an RGB picture in [0, 1]: luminance Y = 0.2126 R + 0.7152 G + 0.0722 B (Rec. 709), chroma
C = max(R, G, B) - min(R, G, B). Ink is what has Y <= 0.4, skin (bare paper) what has Y >= 0.85 and C <= 0.1.

    ink         share of pixels that are ink
    saturation  mean chroma: 0 for a picture without colour
    grey        share of pixels that are neither ink nor skin: shading, colour, the soft edges of strokes
    stroke      median stroke width, % of the picture's side: 2 d - 1 pixels, with d the distance to the nearest pixel
                without ink (Euclidean distance transform), over the pixels of the ink's skeleton
    spread      how much stroke widths differ: their interquartile range over their median
    pieces      number of separate (8-connected) pieces of ink, specks left out
    specks      number of pieces smaller than 0.05% of the picture
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage.measure import label
from skimage.morphology import skeletonize

INK_LUMINANCE = 0.4
SKIN_LUMINANCE, SKIN_CHROMA = 0.85, 0.1
SPECK_SHARE = 0.0005


@dataclass(frozen=True)
class LineArt:
    """The measures of one picture, or their means over several; stroke and spread are NaN where there is no ink."""

    ink: float
    saturation: float
    grey: float
    stroke: float
    spread: float
    pieces: float
    specks: float

    def is_like(self, target: "LineArt") -> bool:
        """Whether these means are line art as the target's are.

        At most 0.05 more saturation, at most 0.1 more grey, and between half and twice the ink.
        """
        return (
            self.saturation <= target.saturation + 0.05
            and self.grey <= target.grey + 0.1
            and target.ink / 2 <= self.ink <= target.ink * 2
        )


def measure(picture: Image.Image) -> LineArt:
    """The measures of one picture of any size."""
    rgb = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    luminance = rgb @ (0.2126, 0.7152, 0.0722)
    chroma = rgb.max(axis=2) - rgb.min(axis=2)
    ink = luminance <= INK_LUMINANCE
    skin = (luminance >= SKIN_LUMINANCE) & (chroma <= SKIN_CHROMA)
    # A border without ink: a stroke that leaves the picture ends there.
    distance = distance_transform_edt(np.pad(ink, 1))[1:-1, 1:-1]
    widths = 2 * distance[skeletonize(ink)] - 1
    stroke = spread = np.nan
    if len(widths):
        low, median, high = np.percentile(widths, (25, 50, 75))
        stroke, spread = 100 * median / max(ink.shape), (high - low) / median
    areas = np.bincount(label(ink, connectivity=2).ravel())[1:]
    is_speck = areas < SPECK_SHARE * ink.size
    return LineArt(
        ink=ink.mean(),
        saturation=chroma.mean(),
        grey=1 - (ink | skin).mean(),
        stroke=stroke,
        spread=spread,
        pieces=(~is_speck).sum(),
        specks=is_speck.sum(),
    )


def mean_line_art(measured: Sequence[LineArt]) -> LineArt:
    """The mean of each measure; pictures without ink do not count for stroke and spread."""
    means = {}
    for field in fields(LineArt):
        values = np.array([getattr(of_picture, field.name) for of_picture in measured], dtype=float)
        known = values[~np.isnan(values)]
        means[field.name] = float(known.mean()) if len(known) else float("nan")
    return LineArt(**means)
