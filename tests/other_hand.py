"""Outline drawings of another hand than the sample's, for tests: no two alike, a wavering pen, drawn here by Pillow."""

import io
import math
import random

from PIL import Image, ImageDraw

SIDE = 256  # px
NAMES = (
    *("sun", "moon", "star", "leaf", "flower", "fish", "boat", "house", "cup", "key", "heart", "kite", "tree"),
    *("cloud", "drop", "shell", "bird", "snake", "crown", "gem", "bell", "wheel", "wave", "hill", "eye"),
)


def outline(number: int) -> Image.Image:
    """One closed line around a middle with a figure of its own inside, black on white."""
    hand = random.Random(number)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)
    middle = SIDE / 2

    def ring(petals: int, radius: float, depth: float) -> list[tuple[float, float]]:
        turn, waver = hand.uniform(0, math.tau), hand.uniform(0.005, 0.02)
        points = []
        for i in range(181):
            angle = math.tau * i / 180
            out = radius * (1 + depth * math.cos(petals * angle) + waver * math.cos(29 * angle))
            points.append((middle + out * math.cos(angle + turn), middle + out * math.sin(angle + turn)))
        return points

    pen.line(ring(2 + number % 9, 62 + number % 4 * 8, 0.1 + number % 5 * 0.06), "black", 6, joint="curve")
    pen.line(ring(3 + number % 7, 24 + number % 3 * 9, 0.25), "black", 5, joint="curve")
    for _ in range(number % 6):
        x, y = hand.uniform(60, 196), hand.uniform(60, 196)
        pen.ellipse((x - 7, y - 7, x + 7, y + 7), outline="black", width=4)
    return image


def drawings(count: int) -> dict[str, bytes]:
    """PNG files by name."""
    files = {}
    for number in range(count):
        file = io.BytesIO()
        outline(number).save(file, "PNG")
        name = NAMES[number % len(NAMES)] + (str(number // len(NAMES)) if number >= len(NAMES) else "")
        files[f"{name}.png"] = file.getvalue()
    return files
