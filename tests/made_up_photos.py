"""Photos of drawings as a phone takes them, made up from clean drawings: the same seed, the same photo."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

TABLES = [(58, 38, 24), (28, 30, 38), (90, 62, 40), (40, 52, 44)]


def on_paper(drawings, color, white_ink, size=(420, 560)):
    """Drawings one below the other on a sheet, (height, width, 3) of 0 to 1, ink not quite black."""
    sheet = Image.new("L", size, 255)
    height = size[1] // len(drawings)
    for i, drawing in enumerate(drawings):
        small = drawing.convert("L")
        small.thumbnail((round(0.8 * size[0]), round(0.85 * height)), Image.Resampling.LANCZOS)
        sheet.paste(small, ((size[0] - small.width) // 2, i * height + (height - small.height) // 2))
    ink = (255 - np.asarray(sheet, dtype=float)[..., None]) / 255
    return 0.1 + 0.75 * ink + np.zeros(3) if white_ink else np.array(color) / 255 * (1 - 0.85 * ink)


def photo(seed, drawings, table=True, paper=(246, 243, 236), dim=None, rules=None, tint=None, white_ink=False):
    """A photo of the drawings on a sheet: table, perspective, shadow, uneven light, noise, JPEG's blur.

    Without a table the sheet fills the frame. `dim` is the light's strength, `rules` the distance of printed lines in
    px, `tint` a table of another colour, `white_ink` is on black paper.
    """
    random = np.random.default_rng(seed)
    sheet = on_paper(drawings, paper, white_ink)
    if rules:
        sheet[::rules] *= (0.72, 0.82, 0.95)
    height, width = sheet.shape[:2]
    frame = (760, 600) if table else (560, 420)
    if table:
        base = np.array(TABLES[seed % len(TABLES)] if tint is None else tint) / 255
        grain = ndimage.gaussian_filter(random.normal(size=frame), (1, 14))
        picture = base * (1 + 0.6 * grain[..., None])
        angle, scale = random.uniform(-0.12, 0.12), random.uniform(0.92, 1.1)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2) * scale
        corners = corners @ turn.T + (300, 380) + random.uniform(-22, 22, (4, 2))
    else:
        picture = np.zeros((*frame, 3))
        corners = np.array([(-30, -30), (450, -30), (450, 590), (-30, 590)]) + random.uniform(-12, 12, (4, 2))
    equations = []
    for (x, y), (u, v) in zip(corners, [(0, 0), (width, 0), (width, height), (0, height)], strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y, u], [0, 0, 0, x, y, 1, -v * x, -v * y, v]]
    equations = np.array(equations)
    a = np.append(np.linalg.solve(equations[:, :8], equations[:, 8]), 1).reshape(3, 3)
    y, x = np.mgrid[: frame[0], : frame[1]]
    u, v, w = np.tensordot(a, np.stack([x, y, np.ones_like(x)]), 1)
    u, v = u / w, v / w
    on_sheet = (u > 0) & (u < width - 1) & (v > 0) & (v < height - 1)
    for c in range(3):
        seen = ndimage.map_coordinates(sheet[..., c], [v, u], order=1, mode="nearest")
        picture[..., c] = np.where(on_sheet, seen, picture[..., c])
    strength = random.uniform(0.4, 0.95) if dim is None else dim
    direction = random.uniform(0, 2 * np.pi)
    slope = (np.cos(direction) * (x / frame[1] - 0.5) + np.sin(direction) * (y / frame[0] - 0.5)) * 0.5
    at = random.uniform(0.3, 0.7, 2)
    shade = np.cos(direction + 1) * (x / frame[1] - at[0]) + np.sin(direction + 1) * (y / frame[0] - at[1]) > 0.1
    shade = ndimage.gaussian_filter(shade.astype(float), random.uniform(2, 15))
    light = strength * (1 + slope) * (1 - random.uniform(0.15, 0.4) * shade)
    picture = picture * light[..., None] * (1.0, 0.97, 0.9)
    picture = ndimage.gaussian_filter(picture, (0.6, 0.6, 0))
    noise = random.normal(0, 1, (*frame, 1)) * 0.012 + random.normal(0, 1, picture.shape) * 0.008
    return Image.fromarray((255 * (picture + noise)).clip(0, 255).astype(np.uint8))


def arm(coin_px=90):
    """An upright forearm of 700 x 950 px on a table, lit from the front, with a coin whose middle is at (450, 820)."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:950, :700]
    across = (x - 350 - 0.05 * (y - 475)) / 260
    grain = [ndimage.gaussian_filter(random.normal(size=y.shape), sigma) * sigma for sigma in (1, 15)]
    light = (0.2 + 0.75 * np.sqrt(np.clip(1 - across**2, 0, 1))) * (1 + 0.12 * grain[0] + 0.1 * grain[1])
    skin = light[..., None] * np.array([224, 172, 140])
    table = np.array(TABLES[2]) * (1 + 0.15 * ndimage.gaussian_filter(random.normal(size=y.shape), (1, 14)))[..., None]
    picture = Image.fromarray(np.where(abs(across[..., None]) < 1, skin, table).clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).circle((450, 820), coin_px / 2, (190, 180, 120), (120, 110, 70), 4)
    return picture
