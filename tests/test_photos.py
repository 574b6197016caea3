"""Photos of drawings come out as the drawings: dark lines on white, straight, and nothing of the table."""

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from conftest import ROOT
from made_up_photos import photo
from PIL import Image, ImageOps
from scipy import ndimage

from stages.preprocess.photos import clean_photo, find_sheet, lies_aslant
from stages.preprocess.raw_images import prepare
from tattoo_lora.params import load_params

PARAMS = load_params(ROOT).preprocess
DRAWINGS = sorted((ROOT / "data/raw/flash").glob("*.png"))
SIDE = 128


@cache
def drawing_path(seed):
    return DRAWINGS[seed * 37 % len(DRAWINGS)]


def prepared_photo(tmp_path, image):
    image.save(tmp_path / "photo.jpg", quality=90)
    found = prepare(tmp_path / "photo.jpg", PARAMS, SIDE)
    assert found.notes[0].startswith("taken as a photo: ")
    return np.asarray(Image.open(io.BytesIO(found.png)).convert("L")) / 255, found.notes[0]


def ink_share(luminance):
    """The ink in its box, stretched to a square: a photo does not tell how long the sheet was."""
    ink = Image.fromarray((255 * (1 - luminance)).astype(np.uint8))
    box = ink.point(lambda level: 255 * (level > 100)).getbbox()
    return ndimage.gaussian_filter(np.asarray(ink.crop(box).resize((96, 96))) / 255, 1.5)


def correlation(luminance, seed):
    straight = Image.open(io.BytesIO(prepare(drawing_path(seed), PARAMS, SIDE).png)).convert("L")
    return np.corrcoef(ink_share(luminance).ravel(), ink_share(np.asarray(straight) / 255).ravel())[0, 1]


def check(luminance, seed, least=0.85):
    margin = np.concatenate([luminance[:4].ravel(), luminance[-4:].ravel(), luminance[:, :4].ravel()])
    assert margin.min() >= 0.9 and np.median(luminance) >= 0.9
    assert np.median(luminance[luminance < 0.5]) < 0.2
    assert correlation(luminance, seed) > least


def drawing(seed):
    return Image.open(drawing_path(seed)).convert("RGB")


@pytest.mark.parametrize("seed", range(20))
def test_a_photo_of_a_sheet_on_a_table_becomes_the_drawing(tmp_path, seed):
    luminance, note = prepared_photo(tmp_path, photo(seed, [drawing(seed)], dim=0.3 if seed % 4 == 0 else None))
    assert "sheet straightened, light evened" in note
    check(luminance, seed)


@pytest.mark.parametrize(
    ("seed", "options", "straightened"),
    [
        (31, {"table": False}, False),
        (32, {"table": False, "dim": 0.35}, False),
        (33, {"rules": 24}, True),
        (34, {"rules": 24, "table": False}, False),
        (35, {"paper": (196, 160, 112)}, True),
        (36, {"paper": (240, 170, 190), "table": False}, False),
        (39, {"tint": (150, 120, 95)}, True),
        (40, {"white_ink": True, "tint": (215, 205, 190)}, True),
        (41, {"white_ink": True, "table": False}, False),
    ],
    ids=["fills", "dim", "ruled", "ruled, fills", "kraft", "pink", "mid table", "white on black", "white, fills"],
)
def test_other_papers_and_tables(tmp_path, seed, options, straightened):
    luminance, note = prepared_photo(tmp_path, photo(seed, [drawing(seed)], **options))
    assert ("sheet straightened" in note) == straightened
    assert ("light on dark turned around" in note) == ("white_ink" in options)
    check(luminance, seed)


def test_several_motifs_stay_on_one_picture(tmp_path):
    luminance, _ = prepared_photo(tmp_path, photo(37, [drawing(seed) for seed in (3, 1, 12)]))
    rows = (luminance < 0.5).any(axis=1)
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) == 3


def test_light_on_dark_paper_stays_so_where_nothing_is_to_be_turned_around(tmp_path):
    photo(41, [drawing(41)], white_ink=True, table=False).save(tmp_path / "p.png")
    notes = prepare(tmp_path / "p.png", replace(PARAMS, invert=False), SIDE).notes
    assert not any("turned around" in note for note in notes)


def test_the_corners_are_those_of_the_sheet_whatever_shadow_lies_on_it():
    picture = np.full((300, 260, 3), 40, dtype=np.uint8)
    picture[30:270, 40:220] = 220
    picture[:, 130:] = picture[:, 130:] * 0.6  # a hard shadow across
    corners = find_sheet(Image.fromarray(picture))
    assert np.abs(corners - [(40, 30), (220, 30), (220, 270), (40, 270)]).max() < 2.5


@pytest.mark.parametrize("angle", [1, 4, -12])
def test_a_sheet_on_a_black_lid_is_one_without_any_noise_too(tmp_path, angle):
    page = Image.new("RGB", (500, 640), "white")
    page.paste(drawing(3).resize((400, 400)), (50, 120))
    table = Image.new("RGB", (800, 900))
    sheet = page.convert("RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)
    table.paste(sheet, ((800 - sheet.width) // 2, (900 - sheet.height) // 2), sheet)
    luminance, note = prepared_photo(tmp_path, table)
    assert note == "taken as a photo: sheet straightened, light evened"
    check(luminance, 3)


def test_a_sheet_that_stands_straight_on_black_may_be_a_drawing():
    page = Image.new("RGB", (400, 400))
    page.paste(drawing(3).resize((240, 300)), (80, 50))
    assert find_sheet(page) is not None and not lies_aslant(page)
    assert lies_aslant(page.rotate(10))


@pytest.mark.parametrize("name", ["aquarius", "diamond-suit", "camera", "love-letter"])
def test_white_ink_on_black_is_no_sheet_though_a_white_field_is_in_it(tmp_path, name):
    ImageOps.invert(Image.open(ROOT / f"data/raw/flash/{name}.png").convert("RGB")).save(tmp_path / "white.png")
    assert not any(note.startswith("taken as a photo") for note in prepare(tmp_path / "white.png", PARAMS, SIDE).notes)


@pytest.mark.parametrize("kind", ["blank", "half in shadow", "drawn box", "tiny"])
def test_without_a_table_no_sheet_is_found(kind):
    picture = np.full((12, 12, 3) if kind == "tiny" else (300, 260, 3), 220, dtype=np.uint8)
    if kind == "half in shadow":
        picture[:, 130:] = 130
    if kind == "drawn box":
        picture[60:240, 50:210] = 20
        picture[80:220, 70:190] = 220
    assert find_sheet(Image.fromarray(picture)) is None


@pytest.mark.parametrize(("seed", "table"), [(100, True), (113, True), (119, False), (124, False)])
def test_nothing_of_edges_and_of_shadows_across_them_is_left_in_the_rim(seed, table):
    dim = 0.3 if seed % 4 == 0 else None
    pixels = np.asarray(clean_photo(photo(seed, [drawing(seed)], table=table, dim=dim), True)[0]).min(axis=2)
    rows, columns = (round(0.03 * side) for side in pixels.shape)
    assert min(pixels[:rows].min(), pixels[-rows:].min(), pixels[:, :columns].min(), pixels[:, -columns:].min()) > 230
