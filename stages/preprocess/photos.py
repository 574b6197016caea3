"""Clean drawings from photos and scans: find and straighten the sheet, even out light and paper, make ink dark."""

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.draw import polygon2mask

LONGEST = 2048  # px of a photo that are used; what cameras give beyond it is noise
SHEET_SIDE = 200  # px at which the sheet is searched
LINE = 7  # px of SHEET_SIDE: drawn lines are thinner
SMALLEST_SHEET = 0.15  # of the photo
SMALLEST_DARK_SHEET = 0.3
LIKE_A_SHEET = 0.93  # overlap of a region with the quadrilateral around it, as intersection over union
EDGE = 0.15  # step at a sheet's edge, as a share of its tone: shadows are softer
ASLANT = (0.5, 30)  # degrees: a light field that stands straight is a motif's or a frame's, as is one on its point
NEAR_EDGE = 10  # px of SHEET_SIDE in which a sheet's edge is looked for again
INSET = 0.012  # of the sheet's side: its edge and the shadow that it throws
RIM = 0.05  # of the sides: what lies in a sheet's rim as a whole is no drawing
FAINT = 100  # levels of 255
LIGHT_SIDE = 256  # px in which the light is measured
SURELY_INK = 0.35  # of the paper's tone: no shadow on a photo is so dark
SPECK = 200  # specks are smaller than this part of the side, and faint

Corners = np.ndarray  # (4, 2): x, y


def clean_photo(image: Image.Image, invert: bool) -> tuple[Image.Image, str]:
    """Dark ink on white from a photo or scan, and what was done: sheet straightened, light evened, turned around.

    The sheet is searched on a table of another tone. Light ink on dark paper is turned around with `invert`.
    """
    done = ["light evened"]
    image = image.copy()
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    corners = find_sheet(image)
    if corners is not None:
        image = straighten(image, corners)
        done.insert(0, "sheet straightened")
    if invert and _ink_is_lighter(image):
        image = ImageOps.invert(image)
        done.append("light on dark turned around")
    return _clean_rim(even_light(image), straightened=corners is not None), ", ".join(done)


def find_sheet(image: Image.Image) -> Corners | None:
    """The sheet's corners on the photo in px, clockwise from the upper left one; None if no table is seen.

    At each of several tones the largest region that is lighter (or, for black paper, darker) is a sheet if it fills a
    quadrilateral with sharp edges, and what lies around it is of another tone.
    """
    scale = SHEET_SIDE / max(image.size)
    size = [max(round(side * scale), 1) for side in image.size]
    if min(size) < 4 * LINE:
        return None
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), dtype=np.float64)
    for tones, smallest, fewest_sides in ((grey, SMALLEST_SHEET, 2), (255 - grey, SMALLEST_DARK_SHEET, 4)):
        tones = ndimage.gaussian_filter(ndimage.grey_closing(tones, LINE), 1)
        sheets = []
        for threshold in np.linspace(*np.quantile(tones, (0.02, 0.98)), 14)[1:-1]:
            labels, count = ndimage.label(tones > threshold)
            if count == 0:
                continue
            region = ndimage.binary_fill_holes(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
            if not smallest < region.mean() < 0.97:
                continue
            corners = _quadrilateral(region)
            if corners is None:
                continue
            filled = polygon2mask(region.shape, corners[:, ::-1])
            overlap = (filled & region).sum() / (filled | region).sum()
            sharpness = _sharpness(tones, filled, corners, fewest_sides)
            if overlap >= LIKE_A_SHEET and sharpness > 0:
                sheets.append((overlap * sharpness, corners))
        if sheets:
            best = _onto_edges(np.log(tones.clip(4)), max(sheets, key=lambda pair: pair[0])[1])
            return (best + 0.5) * np.array(image.size) / size
    return None


def lies_aslant(image: Image.Image) -> bool:
    """Whether a light sheet with ink on it lies aslant in the picture, which white ink on black never does."""
    corners = find_sheet(image)
    if corners is None:
        return False
    across, down = (np.roll(corners, -1, axis=0) - corners).T
    angles = np.degrees(np.arctan2(down, across)) % 90
    tones = np.asarray(straighten(image, corners).convert("L"))
    light = np.median(tones)
    turned = ASLANT[0] < np.minimum(angles, 90 - angles).max() < ASLANT[1]
    return bool(turned and light > 128 and tones.min() < light / 2)


def _quadrilateral(region: np.ndarray) -> Corners | None:
    """The corners of the quadrilateral around the region, clockwise from the upper left; None if none fits."""
    outline = np.argwhere(region & ~ndimage.binary_erosion(region))[:, ::-1].astype(float)  # x, y
    corners = outline[ConvexHull(outline).vertices]
    while len(corners) > 4:  # drop the side whose neighbours, prolonged until they meet, add least to the area
        added, meetings = [], []
        for i in range(len(corners)):
            before, start, end, after = (corners[(i + k) % len(corners)] for k in (-1, 0, 1, 2))
            meeting = _meeting(before, start, after, end)
            one, other = end - start, (start if meeting is None else meeting) - start
            beyond = meeting is None or np.dot(meeting - start, start - before) < 0
            added.append(np.inf if beyond else abs(one[0] * other[1] - one[1] * other[0]))
            meetings.append(meeting)
        i = int(np.argmin(added))
        if not np.isfinite(added[i]):
            return None
        corners[i] = meetings[i]
        corners = np.delete(corners, (i + 1) % len(corners), axis=0)
    if len(corners) < 4:
        return None
    lines = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = (end - start) / np.linalg.norm(end - start)
        from_start = outline - start
        away = np.abs(from_start[:, 0] * along[1] - from_start[:, 1] * along[0])
        share = from_start @ along / np.linalg.norm(end - start)
        near = outline[(away < 3) & (share > 0.1) & (share < 0.9)]
        if len(near) < 5:
            return None
        middle = near.mean(axis=0)
        lines.append((middle, middle + np.linalg.svd(near - middle)[2][0]))
    meetings = [_meeting(*lines[i - 1], *lines[i]) for i in range(4)]
    if any(meeting is None for meeting in meetings):
        return None
    corners = np.array(meetings)
    sides = np.roll(corners, -1, axis=0) - corners
    lengths = np.linalg.norm(sides, axis=1)
    directions = sides / lengths[:, None]
    following = np.roll(directions, -1, axis=0)
    turns = directions[:, 0] * following[:, 1] - directions[:, 1] * following[:, 0]
    if (np.abs(turns) < 0.6).any() or lengths.min() < LINE or np.ptp(np.sign(turns)) > 0:
        return None
    if turns[0] < 0:
        corners = corners[::-1]
    return np.roll(corners, -int(corners.sum(axis=1).argmin()), axis=0)


def _meeting(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray | None:
    """Where the line through a and b meets the one through c and d; None for parallels."""
    one, other = b - a, d - c
    across = one[0] * other[1] - one[1] * other[0]
    if abs(across) < 1e-9:
        return None
    return a + one * ((c - a)[0] * other[1] - (c - a)[1] * other[0]) / across


def _sharpness(tones: np.ndarray, filled: np.ndarray, corners: Corners, fewest_sides: int) -> float:
    """How far the tone falls at the four sides, each as a share of the tone, added up; 0 for no sheet.

    Of a sheet enough sides lie within the picture, all those are sharp, and what is around is darker.
    """
    height, width = tones.shape
    inside = np.median(tones[filled])
    if np.median(tones[~filled]) > (1 - EDGE) * inside:
        return 0.0
    falls = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        points = start + (end - start) * np.linspace(0.1, 0.9, 33)[:, None]
        outward = np.array([end[1] - start[1], start[0] - end[0]]) / np.linalg.norm(end - start)
        without, within = points + 3 * outward, points - 3 * outward
        seen = ((without >= 0) & (without <= (width - 1, height - 1))).all(axis=1)
        if seen.mean() < 0.5:  # the sheet goes on beyond the picture
            continue
        steps = [ndimage.map_coordinates(tones, at[seen].T[::-1], order=1, mode="nearest") for at in (within, without)]
        falls.append(np.median(1 - steps[1] / steps[0].clip(1)))
        if falls[-1] < EDGE:
            return 0.0
    return float(sum(falls)) if len(falls) >= fewest_sides else 0.0


def _onto_edges(logs: np.ndarray, corners: Corners) -> Corners:
    """The corners with each side moved to the steepest fall around it, which light and shadow do not move."""
    lines = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        outward = np.array([end[1] - start[1], start[0] - end[0]]) / np.linalg.norm(end - start)
        reach = np.arange(-NEAR_EDGE, NEAR_EDGE + 0.25, 0.5)
        points = (start + (end - start) * np.linspace(0.05, 0.95, 61)[:, None])[:, None] + reach[:, None] * outward
        profiles = ndimage.map_coordinates(logs, np.moveaxis(points, 2, 0)[::-1], order=1, mode="nearest")
        falls = profiles[:, :-4] - profiles[:, 4:]
        steepest = falls.argmax(axis=1)
        rows = np.flatnonzero(falls.max(axis=1) > EDGE)
        if len(rows) < 20:  # the frame's border
            lines.append((start, end))
            continue
        places, away = np.linspace(0.05, 0.95, 61)[rows], reach[steepest[rows] + 2]
        kept = np.abs(away - np.median(away)) < NEAR_EDGE / 2
        for _ in range(4):
            line = np.polynomial.Polynomial.fit(places[kept], away[kept], 1, domain=[0, 1], window=[0, 1])
            off = np.abs(away - line(places))
            kept = off <= max(np.median(off) * 2, 0.5)
        lines.append((start + line(0) * outward, end + line(1) * outward))
    meetings = [_meeting(*lines[i - 1], *lines[i]) for i in range(4)]
    return corners if any(meeting is None for meeting in meetings) else np.array(meetings)


def straighten(image: Image.Image, corners: Corners) -> Image.Image:
    """The quadrilateral as a rectangle of the same size, without its outermost edge."""
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    width, height = round((sides[0] + sides[2]) / 2), round((sides[1] + sides[3]) / 2)
    left, upper = INSET * width, INSET * height
    target = [(-left, -upper), (width + left, -upper), (width + left, height + upper), (-left, height + upper)]
    equations, values = [], []
    for (x, y), (u, v) in zip(target, corners, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(equations), np.array(values))
    return image.transform(
        (width, height), Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BICUBIC, fillcolor="white"
    )


def _small(image: Image.Image) -> np.ndarray:
    """(height, width, 3) of at most LIGHT_SIDE px, 1 to 255."""
    scale = min(LIGHT_SIDE / max(image.size), 1)
    size = [max(round(side * scale), 1) for side in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float64).clip(1)


def _tone_of_most(grey: np.ndarray) -> np.ndarray:
    """A smooth surface of second degree through the tone that most pixels have where they are: that of the paper.

    Least absolute deviations of the logarithm, by weighting each pixel by the inverse of how far it lies off.
    """
    height, width = grey.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    logs = np.log(grey).ravel()
    surface = np.full_like(logs, np.median(logs))
    for _ in range(12):
        weights = 1 / np.maximum(np.abs(logs - surface), 0.02)
        weighted = terms * weights[:, None]
        surface = terms @ np.linalg.lstsq(weighted.T @ terms, weighted.T @ logs)[0]
    return np.exp(surface).reshape(grey.shape)


def _ink_is_lighter(image: Image.Image) -> bool:
    """Whether more pixels are clearly lighter than the dark paper than are darker."""
    grey = _small(image).mean(axis=2)
    paper = _tone_of_most(grey)
    away = grey - paper
    clear = np.abs(away) > 0.25 * paper
    return np.median(paper) < 128 and away[clear].sum() > 0


def even_light(image: Image.Image) -> Image.Image:
    """Paper tone, uneven light and noise to white, ink to black: divided by the paper's tone around each pixel.

    The paper is what remains when dark things thinner than a sixteenth of the picture are closed. Larger ones are known
    by being darker than any shadow.
    """
    small = _small(image)
    grey = small.mean(axis=2)
    ink = ndimage.binary_dilation(grey < SURELY_INK * _tone_of_most(grey), iterations=2)
    reach = max(grey.shape) // 16 | 1
    weight = ndimage.gaussian_filter((~ink).astype(float), reach) + 1e-6
    papers = []
    for channel in np.moveaxis(small, 2, 0):
        around = ndimage.gaussian_filter(np.where(ink, 0, channel), reach) + 1e-6 * channel.max()
        closed = ndimage.grey_closing(np.where(ink, around / weight, channel), reach, mode="nearest")
        paper = Image.fromarray(ndimage.gaussian_filter(closed, 1.5).astype(np.float32))
        papers.append(np.asarray(paper.resize(image.size, Image.Resampling.BICUBIC)))
    flat = np.asarray(image, dtype=np.float32) / np.stack(papers, axis=2).clip(1)
    flat = ndimage.median_filter(flat, (3, 3, 1))
    tone = flat.mean(axis=2)
    paper = tone[tone > 0.8]
    middle = np.median(paper) if len(paper) else 1.0
    noise = 1.5 * np.median(np.abs(paper - middle)) if len(paper) else 0.0
    white = middle - np.clip(4 * noise, 0.1, 0.3)
    drawn = tone[tone < white - 0.1]
    black = min(np.quantile(drawn, 0.2), 0.75 * white) if len(drawn) else 0.0
    levels = ((flat - black) / (white - black)).clip(0, 1)
    levels[_specks(levels.mean(axis=2))] = 1
    return Image.fromarray((255 * levels).round().astype(np.uint8))


def _specks(tone: np.ndarray) -> np.ndarray:
    """The places of small and faint spots: noise, and dust on the paper."""
    labels, count = ndimage.label(tone < 0.95, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    darkest = ndimage.minimum(tone, labels, np.arange(count + 1))
    small_and_faint = (sizes < max((max(tone.shape) / SPECK) ** 2, 4)) & (darkest > 0.45)
    small_and_faint[0] = False
    return small_and_faint[labels]


def _clean_rim(image: Image.Image, straightened: bool) -> Image.Image:
    """Without faint spots that reach the rim, where shadows cross it; of a straightened sheet without its edges too."""
    pixels = np.array(image)
    labels, count = ndimage.label(pixels.min(axis=2) < 245, np.ones((3, 3)))
    height, width = labels.shape
    rim = np.ones(labels.shape, dtype=bool)
    rim[round(RIM * height) : round((1 - RIM) * height), round(RIM * width) : round((1 - RIM) * width)] = False
    reaches_rim, reaches_in = np.zeros((2, count + 1), dtype=bool)
    reaches_rim[labels[rim]] = True
    reaches_in[labels[~rim]] = True
    faint = ndimage.minimum(pixels.min(axis=2), labels, np.arange(count + 1)) > FAINT
    pixels[(reaches_rim & (faint | ~reaches_in & straightened))[labels]] = 255
    return Image.fromarray(pixels)
