"""Whether a stencil's lines and gaps are wide enough for skin."""

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.measure import label

from app.stencil.options import INCH_MM, Options


def narrow_gaps(ink: np.ndarray, options: Options) -> int:
    """How many places between lines are narrower than min_gap_mm: the ink will not keep them apart."""
    half = options.min_gap_mm * options.dpi / INCH_MM / 2
    open_skin = distance_transform_edt(~ink) > half  # where a disc of that width has its centre
    if not open_skin.any():
        return 1
    reached = distance_transform_edt(~open_skin) <= half  # and what such discs cover
    closed = ~ink & ~reached
    # Corners between strokes are always a little closed, so only places that are longer than the gap is wide count.
    areas = np.bincount(label(closed, connectivity=2).ravel())[1:]
    return int((areas > (2 * half) ** 2).sum())
