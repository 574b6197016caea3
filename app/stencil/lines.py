"""A stencil's lines, drawn anew along their centre lines: at another width, or across a break."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial import KDTree

from app.stencil.skeleton import CentreLines, Path
from app.stencil.topology import grow

AREA = 2.5  # times the usual width of the drawing's lines: what is wider is an area, which keeps its size
AHEAD = 0.5  # cosine: a line's end looks at another one within 60 degrees


@dataclass(frozen=True)
class End:
    """Where a line ends: its last point, the way ahead (of length 1) and half its width, in pixels."""

    point: np.ndarray
    ahead: np.ndarray
    radius: float  # of the line
    tip: float  # from the last point to the line's edge


@dataclass(frozen=True)
class Join:
    """A stroke across a break, from one line's last point to another's, in pixels."""

    start: np.ndarray
    end: np.ndarray
    radius: float


def near(lines: CentreLines, radius: float) -> np.ndarray:
    """`radius` less the distance to the nearest centre line, in pixels: (H, W), float32, above 0 within."""
    y, x = distance_transform_edt(~lines.skeleton, return_distances=False, return_indices=True)
    points = lines.points()
    level = np.empty(y.shape, dtype=np.float32)
    columns = np.arange(y.shape[1], dtype=np.float32)
    for row in range(len(level)):  # one at a time, which saves memory
        to_y, to_x = (points[y[row], x[row]] - np.stack([np.full_like(columns, row), columns], axis=1)).T
        level[row] = radius - np.hypot(to_y, to_x)
    return level


def with_line_width(level: np.ndarray, lines: CentreLines, width: float) -> np.ndarray:
    """The stencil with all its lines of that width in pixels; areas stay. Pieces and holes stay as many."""
    drawn = near(lines, width / 2)
    areas = find_areas(lines)
    if areas is not None:
        drawn = np.where(areas, np.maximum(drawn, level), drawn)
    return kept_apart(drawn, lines.skeleton)


def at_least(level: np.ndarray, lines: CentreLines, width: float) -> np.ndarray:
    """The stencil with the lines that are thinner than `width` pixels widened. Pieces and holes stay as many."""
    return kept_apart(np.maximum(level, near(lines, width / 2)), level > 0)


def kept_apart(drawn: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """What is drawn, without the pixels at which parts of the seed would meet."""
    target = (drawn > 0) | seed
    # In steps of a pixel from the centre outward.
    ink = grow(seed, target, np.floor(drawn.max() - drawn).astype(np.int32))
    edge = np.float32(0.1)
    return np.where(ink, np.maximum(drawn, edge), np.minimum(drawn, -edge))


def find_areas(lines: CentreLines) -> np.ndarray | None:
    """True in the discs in which the drawing is wider than its lines; None if there are none."""
    if not lines.paths:
        return None
    points = np.concatenate([path.points for path in lines.paths])
    radii = np.concatenate([path.radii for path in lines.paths])
    wide = radii > AREA * np.median(radii)
    if not wide.any():
        return None
    picture = Image.new("1", lines.skeleton.shape[::-1])
    pen = ImageDraw.Draw(picture)
    for (y, x), radius in zip(points[wide], radii[wide] + 3, strict=True):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.asarray(picture)


def find_joins(level: np.ndarray, lines: CentreLines, longest: float) -> list[Join]:
    """The breaks, up to `longest` pixels, between ends of lines that look at each other, each end at most once."""
    ends = [end for path in lines.paths for end in free_ends(path)]
    if len(ends) < 2:
        return []
    points = np.stack([end.point for end in ends])
    reach = longest + 2 * max(end.tip for end in ends)
    pairs = []
    for one, other in KDTree(points).query_pairs(reach):
        first, second = ends[one], ends[other]
        way = second.point - first.point
        distance = np.hypot(*way)
        if distance == 0 or min(first.ahead @ way, -second.ahead @ way) < AHEAD * distance:
            continue
        shares = np.linspace(0, 1, int(2 * distance) + 2)[:, None]
        white = np.flatnonzero(map_coordinates(level, (first.point + shares * way).T, order=1) <= 0)
        gap = len(white) * distance / len(shares)
        # No other line runs through the break.
        if len(white) and gap <= longest and white[-1] - white[0] + 1 == len(white):
            pairs.append((gap, one, other))
    joined: set[int] = set()
    joins = []
    for _, one, other in sorted(pairs):
        if not joined & {one, other}:
            joined |= {one, other}
            radius = min(ends[one].radius, ends[other].radius)
            joins.append(Join(points[one], points[other], radius))
    return joins


def free_ends(path: Path) -> list[End]:
    radius = float(np.median(path.radii))
    back = max(4, round(3 * radius))
    if path.closed or len(path.points) <= radius + 1:  # a dot looks nowhere
        return []
    ends = []
    for free, way in zip(path.free, (slice(None), slice(None, None, -1)), strict=True):
        if free:
            points = path.points[way]
            ahead = points[0] - points[min(back, len(points) - 1)]
            tip = float(path.radii[way][0])
            ends.append(End(points[0], ahead / max(np.hypot(*ahead), 1e-9), radius, tip))
    return ends


def join(level: np.ndarray, joins: list[Join]) -> np.ndarray:
    """The stencil with the strokes across its breaks."""
    level = level.copy()
    for stroke in joins:
        first, last = np.sort(np.stack([stroke.start, stroke.end]), axis=0)
        top, left = np.maximum(np.floor(first - stroke.radius - 3).astype(int), 0)
        bottom, right = np.ceil(last + stroke.radius + 4).astype(int)
        window = level[top:bottom, left:right]
        pixels = np.stack(np.mgrid[top : top + window.shape[0], left : left + window.shape[1]], axis=-1)
        way = stroke.end - stroke.start
        share = np.clip((pixels - stroke.start) @ way / (way @ way), 0, 1)
        distance = np.linalg.norm(pixels - stroke.start - share[..., None] * way, axis=-1)
        np.maximum(window, stroke.radius - distance, out=window, casting="same_kind")
    return level
