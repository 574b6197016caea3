"""A stencil as strokes: an SVG of paths along the centre lines, each with its width, for plotters and for editing."""

import numpy as np
from skimage.measure import approximate_polygon

from app.stencil.options import Options
from app.stencil.skeleton import Path, trace_centre_lines

OFF_PX = 0.4  # how far a node that is left out may lie from the path
EVEN = 1.25  # a stroke is parted where its line is so many times wider or thinner than the stroke


def to_centre_svg(level: np.ndarray, options: Options) -> str:
    """The strokes in a group, smooth curves through few nodes; the picture's size is in mm, a unit is a pixel."""
    strokes = [stroke for path in trace_centre_lines(level).paths for stroke in split_strokes(path)]
    paths = "\n".join(f'<path stroke-width="{2 * radius:.1f}" d="{curve}"/>' for curve, radius in strokes)
    group = '<g fill="none" stroke="black" stroke-linecap="round" stroke-linejoin="round">'
    return document(f"{group}\n{paths}\n</g>\n", level.shape, options)


def document(body: str, shape: tuple[int, ...], options: Options, namespaces: str = "") -> str:
    """The elements as an SVG of a stencil (H, W): its size is in mm of the print, a unit is a pixel."""
    height, width = shape
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg"{namespaces} width="{options.width_mm:g}mm" '
        f'height="{options.width_mm * height / width:g}mm" viewBox="0 0 {width} {height}">\n{body}</svg>\n'
    )


def split_strokes(path: Path) -> list[tuple[str, float]]:
    """The path as curves, and half the width of each in pixels."""
    points, radii = path.points + 0.5, np.maximum(path.radii, 0.5)  # a pixel's middle is half a unit from its corner
    if path.closed:
        points, radii = np.concatenate([points, points[:1]]), np.append(radii, radii[0])
    starts = [0]
    for place, radius in enumerate(radii):
        ratio = radius / radii[starts[-1] : place + 1].mean()
        if not 1 / EVEN < ratio < EVEN and len(radii) - place > 2:
            starts.append(place)
    return [
        (curve(points[start : stop + 1]), float(np.median(radii[start : stop + 1])))
        for start, stop in zip(starts, [*starts[1:], len(points)], strict=True)
    ]


def curve(points: np.ndarray) -> str:
    """SVG's commands for a smooth curve along points (N, 2), (y, x): a Catmull-Rom spline through few of them."""
    nodes = approximate_polygon(points, OFF_PX)[:, ::-1]
    if len(nodes) == 1:
        nodes = np.repeat(nodes, 2, axis=0)  # with a round cap, a dot
    before, after = np.concatenate([nodes[:1], nodes[:-2]]), np.concatenate([nodes[2:], nodes[-1:]])
    start, end = nodes[:-1], nodes[1:]
    # The handles are a third of the way at most, so that uneven nodes make no loops.
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    handles = [limited(end - before, length), limited(start - after, length)]
    commands = [f"M{nodes[0][0]:.1f} {nodes[0][1]:.1f}"]
    for one, two, three in zip(start + handles[0], end + handles[1], end, strict=True):
        commands.append("C" + " ".join(f"{number:.1f}" for number in (*one, *two, *three)))
    return "".join(commands)


def limited(way: np.ndarray, length: np.ndarray) -> np.ndarray:
    size = np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
    return way / size * np.minimum(size / 6, length / 3)
