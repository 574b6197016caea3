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
# A picture is line art up to here. Of the 330 sample drawings one is not, a filled one with strokes of 14%.
MOST_INK = 0.5
MOST_CHROMA = 0.08
BLOB = 6.0  # stroke width, % of the picture's side


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

    @property
    def is_line_art(self) -> bool:
        """Whether one picture of these measures is ink on bare paper.

        There is some ink, no more than MOST_INK and no less than grey; the mean chroma, were it all in what is drawn
        (ink and grey), is at most MOST_CHROMA; strokes are at most BLOB wide.
        """
        return bool(
            0 < self.ink <= MOST_INK
            and self.grey <= self.ink
            and self.saturation <= MOST_CHROMA * (self.ink + self.grey)
            and self.stroke <= BLOB
        )


def count_line_art(pictures: Sequence[LineArt]) -> int:
    return sum(picture.is_line_art for picture in pictures)


def are_line_art(pictures: Sequence[LineArt], target: LineArt) -> bool:
    """Whether at least half of the pictures are line art, with half to twice the target's ink in the mean.

    Each picture is judged alone: in a mean, some coloured pictures vanish among others.
    """
    enough = 2 * count_line_art(pictures) >= len(pictures)
    return enough and bool(target.ink / 2 <= mean_line_art(pictures).ink <= target.ink * 2)


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
    """The mean of each measure; pictures without ink do not count in those of stroke and spread."""
    means = {}
    for field in fields(LineArt):
        values = np.array([getattr(picture, field.name) for picture in measured], dtype=float)
        numbers = values[~np.isnan(values)]
        means[field.name] = float(numbers.mean()) if len(numbers) else float("nan")
    return LineArt(**means)
