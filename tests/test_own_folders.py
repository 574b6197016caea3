"""Folders as users bring them, each through `python main.py --images` in a project of its own, with a few steps."""

import random

import numpy as np
import pytest
from conftest import copy_project, run
from PIL import Image, ImageDraw

pytestmark = pytest.mark.slow


def drawing(seed, size=(300, 300), width=5):
    """Lines, an arc and a polygon by another hand than the sample's, other ones with each seed."""
    draw_random, image = random.Random(seed), Image.new("L", size, "white")
    draw = ImageDraw.Draw(image)

    def point():
        return draw_random.uniform(0.1, 0.9) * size[0], draw_random.uniform(0.1, 0.9) * size[1]

    draw.line([point() for _ in range(6)], fill="black", width=width, joint="curve")
    draw.polygon([point() for _ in range(3)], outline="black", width=width)
    x, y = point()
    draw.ellipse((x - 40, y - 40, x + 40, y + 40), outline="black", width=width)
    return image


def clean(folder, count, name="IMG_{}.png"):
    for i in range(count):
        drawing(i).save(folder / name.format(i))


def photos(folder):
    """On a dark table, turned a little."""
    for i in range(12):
        paper = Image.new("L", (600, 600), 225)
        paper.paste(drawing(i).point(lambda v: v * 225 // 255), (150, 150))
        table = Image.new("L", (900, 800), 60)
        table.paste(paper.rotate(4, fillcolor=60), (150, 100))
        table.save(folder / f"IMG_{i}.jpg", quality=85)


def scans(folder):
    """Paper of 232 that grows darker to one side."""
    for i in range(12):
        shade = Image.linear_gradient("L").rotate(90).resize((300, 300)).point(lambda v: 205 + v // 9)
        Image.blend(drawing(i), shade, 0.4).save(folder / f"scan{i}.tiff")


def mixed_sizes(folder):
    for i, size in enumerate([(60, 60), (200, 900), (1500, 1100), (300, 40), (500, 500)] * 3):
        drawing(i, size, max(size[0] // 60, 2)).save(folder / f"{i}.png")


def two_duplicates(folder):
    clean(folder, 12)
    for i in (3, 5):
        drawing(i).resize((200, 200)).save(folder / f"IMG_{i} copy.png")


FOLDERS = {
    "clean 25": (lambda folder: clean(folder, 25), "25 drawings, 3 of them held out (1 val, 2 test)"),
    "photos": (photos, "12 files look like photos"),
    "scans": (scans, "12 files look like photos"),
    "mixed sizes": (mixed_sizes, "drawings"),
    "two duplicates": (
        two_duplicates,
        "12 drawings, 3 of them held out (1 val, 2 test); 2 duplicates and 0 rejected files left out",
    ),
    "纹身": (lambda folder: clean(folder, 12, "花{}.png"), "12 of 12 names say what is drawn"),
    "eight": (lambda folder: clean(folder, 8), "8 drawings, 2 of them held out (1 val, 1 test)"),
    "three": (lambda folder: clean(folder, 3), "3 drawings, 2 of them held out (1 val, 1 test)"),
    "one": (lambda folder: clean(folder, 1), "1 usable drawing(s) of 1; three are needed, two of them held out"),
    "2000": (lambda folder: clean(folder, 2000), "2000 drawings"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_gets_through_or_is_told_why_not(project, tmp_path, name):
    make, expected = FOLDERS[name]
    copy = copy_project(project, tmp_path / "p")
    folder = tmp_path / name
    folder.mkdir()
    make(folder)
    if name == "2000":  # its drawings alone: captions and latents of so many take minutes
        text = (copy / "dvc.yaml").read_text(encoding="utf-8")
        (copy / "dvc.yaml").write_text(text[: text.index("\n  caption_blip:")] + "\n", encoding="utf-8")
        (copy / "metrics").mkdir()
        (copy / "metrics/findings.json").write_text('{"headline": "none", "better": {}, "scores": {"base": {}}}')
    result = run("python", "main.py", "--images", str(folder), cwd=copy, check=False)
    said = result.stdout + result.stderr
    print(f"\n{name}:\n{said}")  # shown by pytest -s
    assert "Traceback" not in said
    assert expected in said
    assert (result.returncode == 0) == (name != "one")
    if name in ("photos", "scans"):
        pictures = [np.asarray(Image.open(path)) for path in (copy / f"data/processed/{name}/images").iterdir()]
        assert len(pictures) == 12
        for picture in pictures:  # dark lines on white
            assert np.median(picture) >= 250 and picture[[0, -1]].min() > 200 and picture[:, [0, -1]].min() > 200
            assert 0.02 < (picture < 128).mean() < 0.2 and picture.min() < 50
