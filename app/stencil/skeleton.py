"""Centre lines: a stencil's skeleton as paths, smooth and finer than pixels."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import KDTree
from skimage.measure import label
from skimage.morphology import skeletonize

from app.stencil.topology import AROUND, erase
from app.stencil.widths import crossings

SMOOTH_PX = 2.0  # along the path: a skeleton of pixels goes in steps


@dataclass(frozen=True)
class Path:
    """A stretch of a centre line from end or junction to end or junction; all in pixels."""

    pixels: np.ndarray  # (N, 2), int: of the skeleton, in order
    points: np.ndarray  # (N, 2): the same, smooth
    radii: np.ndarray  # (N,): half of the line's width
    closed: bool
    free: tuple[bool, bool]  # whether the line ends at the first and the last pixel


@dataclass(frozen=True)
class CentreLines:
    skeleton: np.ndarray  # (H, W), bool
    paths: list[Path]

    def points(self) -> np.ndarray:
        """Where the centre line is (H, W, 2), float32, at each pixel of the skeleton; elsewhere the pixel itself."""
        points = np.stack(np.indices(self.skeleton.shape, dtype=np.float32), axis=-1)
        for path in self.paths:
            points[tuple(path.pixels.T)] = path.points
        return points


def trace_centre_lines(level: np.ndarray) -> CentreLines:
    """The centre lines of what is above 0 in (H, W). Spurs are left out: they lie within the line they branch from."""
    # The frame is white, so that every pixel has eight neighbours.
    skeleton = np.pad(skeletonize(level > 0), 1)
    pixels = np.argwhere(skeleton)
    radius = np.zeros(skeleton.shape, dtype=np.float32)
    radius[skeleton] = KDTree(crossings(level)).query(pixels - 1)[0]
    chains = walk(skeleton)
    while spurs := [chain for chain in chains if chain.spur(radius)]:
        before = skeleton.sum()
        for chain in spurs:
            erase(skeleton, chain.pixels[chain.inner][:: 1 if chain.free[0] else -1])
        chains = walk(skeleton)  # where a spur was, two chains are one
        if skeleton.sum() == before:
            break
    return CentreLines(skeleton[1:-1, 1:-1].copy(), [chain.smooth(radius) for chain in chains])


@dataclass(frozen=True)
class Chain:
    """Pixels (N, 2) of a framed skeleton in order, and which of both ends are ends of a line."""

    pixels: np.ndarray
    closed: bool
    free: tuple[bool, bool]

    @property
    def inner(self) -> slice:
        """All but the pixels at junctions."""
        return slice(0 if self.free[0] else 1, len(self.pixels) if self.free[1] else -1)

    def spur(self, radius: np.ndarray) -> bool:
        if self.closed or sum(self.free) != 1:
            return False
        junction = self.pixels[-1] if self.free[0] else self.pixels[0]
        return len(self.pixels) <= 1.2 * radius[tuple(junction)] + 1

    def smooth(self, radius: np.ndarray) -> Path:
        points = self.pixels.astype(float)
        radii = radius[tuple(self.pixels.T)].astype(float)
        if self.closed:
            points = gaussian_filter1d(points, SMOOTH_PX, axis=0, mode="wrap")
            radii = gaussian_filter1d(radii, SMOOTH_PX, mode="wrap")
        elif len(points) > 2:
            pad = min(len(points) - 1, int(4 * SMOOTH_PX))
            ends = ((pad, pad), (0, 0))
            points = np.pad(points, ends, "reflect", reflect_type="odd")  # so that both ends stay where they are
            points = gaussian_filter1d(points, SMOOTH_PX, axis=0)[pad:-pad]
            radii = gaussian_filter1d(radii, SMOOTH_PX, mode="nearest")
        return Path(self.pixels - 1, points - 1, radii, self.closed, self.free)


def walk(skeleton: np.ndarray) -> list[Chain]:
    """The chains of a skeleton with a white frame, from end or junction to end or junction."""
    width = skeleton.shape[1]
    places = np.flatnonzero(skeleton)
    flat = skeleton.ravel()
    offsets = np.array([dy * width + dx for dy, dx in AROUND])
    taken = flat[places[:, None] + offsets]
    # How often white turns to ink around a pixel: 1 at an end, 2 on a path, more at a junction.
    turns = (~taken & np.roll(taken, -1, axis=1)).sum(axis=1)
    nodes = {int(place): int(count) for place, count in zip(places, turns, strict=True) if count != 2}
    # Straight neighbours first: a diagonal step would leave out the pixel in the corner.
    order = [int(offset) for offset in (*offsets[::2], *offsets[1::2])]
    open_ = set(places.tolist()) - nodes.keys()

    def follow(start: int, place: int) -> list[int]:
        chain = [start, place]
        open_.discard(place)
        while place not in nodes:
            ways = [place + offset for offset in order]
            ahead = [way for way in ways if way in open_]
            # The first pixels of a chain lie beside the junction's other pixels; later ones end at a junction.
            arrived = [way for way in ways if way in nodes and (way != start or len(chain) > 4)]
            ways = ahead + arrived if len(chain) < 4 else arrived + ahead
            if not ways:
                break
            place = ways[0]
            open_.discard(place)
            chain.append(place)
        return chain

    chains = []
    for node, count in nodes.items():
        if count == 0:
            chains.append(([node], False))
        for offset in order:
            if node + offset in open_:
                chains.append((follow(node, node + offset), False))
            elif nodes.get(node + offset) == 1 and (count > 1 or offset > 0):  # two pixels, one of them an end
                chains.append(([node, node + offset], False))
    loops = label(skeleton, connectivity=2).ravel() if open_ else flat
    with_nodes = {int(loops[node]) for node in nodes}
    for place in sorted(open_):
        if place in open_ and int(loops[place]) not in with_nodes:
            open_.discard(place)
            ahead = next((place + offset for offset in order if place + offset in open_), None)
            chains.append((follow(place, ahead), True) if ahead is not None else ([place], False))
    return [
        Chain(
            np.stack(np.divmod(np.array(pixels), width), axis=1),
            closed,
            (not closed and nodes.get(pixels[0], 1) <= 1, not closed and nodes.get(pixels[-1], 1) <= 1),
        )
        for pixels, closed in chains
    ]
