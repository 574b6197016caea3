"""Whether a stencil's lines and gaps are wide enough for skin: measured across, between facing edges.

An edge is where the level crosses 0, between two pixels, so widths are finer than pixels. From each point of an edge a
ray runs across the line (or the gap) until it leaves it. Only edges that face each other count; the point halfway
between them lies on the medial axis.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from skimage.measure import label

FACING = np.cos(np.radians(20))  # how far two edges may turn from each other and still face each other
FARTHEST = 3.0  # times the limit: how wide a line or gap is still measured
STEPS = np.geomspace(0.2, FARTHEST, 9)  # times the limit: where narrow places are looked for
FINEST = 4.5  # px: below that, softening makes a tip about one width for a stretch
FEWEST = 3  # points that make a place: one or two may be noise
CELL = 2  # px: midpoints as near as that belong to one place
PLATEAU, PLATEAU_SHARE = 0.15, 0.6  # this share of a place's points differs by no more than that either way


@dataclass(frozen=True)
class Widths:
    """How wide lines (or gaps) are, at points (y, x) of their medial axis; all in pixels."""

    middles: np.ndarray  # (N, 2)
    across: np.ndarray  # (N, 2), unit vectors
    widths: np.ndarray  # (N,)


@dataclass(frozen=True)
class Place:
    """A stretch of a line or gap that is narrower than a limit, in pixels."""

    middles: np.ndarray  # (N, 2)
    widths: np.ndarray  # (N,)
    narrowest: np.ndarray  # (2,), one of the middles
    width: float  # there


def measure(level: np.ndarray, most: float) -> Widths:
    """Widths up to `most` pixels of what is above 0 in `level` (H, W): the lines; those of -level are the gaps."""
    points = crossings(level)
    inward = slopes(level, points)
    height, width = level.shape
    reach = np.full(len(points), np.nan)
    running = np.flatnonzero(inward.any(axis=1))
    for step in np.arange(1.0, most + 2):
        y, x = np.rint(points[running] + step * inward[running]).astype(int).T
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        running, y, x = running[inside], y[inside], x[inside]  # what the picture cuts off has no width
        out = level[y, x] <= 0
        # The first pixel may lie beyond the edge that the ray starts from.
        reach[running[out]] = step
        running = running[~out]
    met = np.flatnonzero(reach > 1.5)
    thin = np.flatnonzero(reach <= 1.5)
    starts = np.r_[met, thin]
    # Where the level crosses 0 between the last two steps, in quarters of a pixel.
    offsets = np.arange(-1.75, 1.26, 0.25)
    along = np.maximum(reach[starts, None] + offsets, 0.25)
    ways = points[starts, :, None] + inward[starts, :, None] * along[:, None, :]
    values = map_coordinates(level, ways.transpose(1, 0, 2), order=1, mode="nearest")
    falls = (values[:, :-1] > 0) & (values[:, 1:] <= 0)
    rows, first = np.flatnonzero(falls.any(axis=1)), falls.argmax(axis=1)
    first = first[rows]
    before, after = values[rows, first], values[rows, first + 1]
    widths = along[rows, first] + (along[rows, first + 1] - along[rows, first]) * before / (before - after)
    starts = starts[rows]
    ends = points[starts] + widths[:, None] * inward[starts]
    facing = (slopes(level, ends) * inward[starts]).sum(axis=1) < -FACING
    kept = facing & (widths <= most)
    starts, widths = starts[kept], widths[kept]
    return Widths(points[starts] + widths[:, None] / 2 * inward[starts], inward[starts], widths)


def crossings(level: np.ndarray) -> np.ndarray:
    """Points (N, 2) where the level crosses 0 between two pixels."""
    points = []
    for down, right in ((0, 1), (1, 0)):
        near, far = level[: level.shape[0] - down, : level.shape[1] - right], level[down:, right:]
        y, x = np.nonzero((near > 0) != (far > 0))
        share = near[y, x] / (near[y, x] - far[y, x])
        points.append(np.stack([y + down * share, x + right * share], axis=1))
    return np.concatenate(points)


def slopes(level: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The way in which the level rises at each of the points, of length 1; 0 where it does not."""
    y, x = points.T
    down, up, right, left = (
        map_coordinates(level, (y + dy, x + dx), order=1, mode="nearest")
        for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    rise = np.stack([down - up, right - left], axis=1)
    length = np.hypot(*rise.T)[:, None]
    return np.divide(rise, length, out=np.zeros_like(rise), where=length > 0)


def narrow_places(level: np.ndarray, measured: Widths, limit: float, farthest: float = 1.0) -> list[Place]:
    """Places that are narrower than `limit` pixels times `farthest`, without points and corners that run out.

    A stroke that tapers to a point and the corner between two strokes are always narrow at their end, at every size, so
    they do not count.
    """
    steps = [step for step in STEPS if FINEST < limit * step < limit * farthest] + [farthest]
    groups = group(measured, limit * farthest)
    narrowest: dict[int, tuple[float, int]] = {}  # of each group: the width, and the point's index
    for step in steps:
        parts = group(measured, limit * step)
        order = np.argsort(parts, kind="stable")
        bounds = np.searchsorted(parts[order], np.arange(1, parts.max(initial=0) + 2))
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            members = order[start:stop]
            if stop - start >= FEWEST and not runs_out(level, measured, members):
                point = int(members[np.argsort(measured.widths[members])[FEWEST - 1]])
                whole, place = int(groups[point]), (float(measured.widths[point]), point)
                narrowest[whole] = min(place, narrowest.get(whole, place))
    return [
        Place(measured.middles[groups == whole], measured.widths[groups == whole], measured.middles[point], width)
        for whole, (width, point) in sorted(narrowest.items())
    ]


def group(measured: Widths, limit: float) -> np.ndarray:
    """The number of each point's place, from 1; 0 where it is not below the limit."""
    narrow = np.flatnonzero(measured.widths < limit)
    numbers = np.zeros(len(measured.widths), dtype=int)
    if len(narrow):
        cells = np.floor(measured.middles[narrow] / CELL).astype(int)
        cells -= cells.min(axis=0)
        taken = np.zeros(cells.max(axis=0) + 1, dtype=bool)
        taken[tuple(cells.T)] = True
        numbers[narrow] = label(taken, connectivity=2)[tuple(cells.T)]
    return numbers


def runs_out(level: np.ndarray, measured: Widths, members: np.ndarray) -> bool:
    """Whether a place only narrows down to an end: no stretch of it has about one width, and behind its narrowest
    point the line (or gap) ends."""
    widths = measured.widths[members]
    ordered = np.sort(widths)
    within = np.searchsorted(ordered, ordered * (1 + 2 * PLATEAU), side="right") - np.arange(len(ordered))
    if within.max() >= PLATEAU_SHARE * len(ordered):
        return False
    narrowest = members[widths.argmin()]
    along = measured.across[narrowest][::-1] * [1, -1]
    ahead = measured.middles[narrowest] + np.outer([-1, 1], along) * (2 * measured.widths[narrowest] + 2)
    return bool((map_coordinates(level, ahead.T, order=1, mode="nearest") <= 0).any())
