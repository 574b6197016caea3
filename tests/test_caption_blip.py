"""Whose caption a drawing gets. No captioner is there: a stage that loads one fails."""

import shutil

import pytest
from conftest import ROOT, run, set_value
from PIL import Image

from tattoo_lora.data.captions import write_user_captions
from tattoo_lora.data.drawings import Drawing, write_drawings


@pytest.fixture
def folder(tmp_path):
    for name in ("stages", "tattoo_lora"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    set_value(tmp_path / "profiles/embedded.yaml", "captioner.id", "models/embedded/none")
    (tmp_path / "processed/images").mkdir(parents=True)
    return tmp_path


def caption(folder, captions_from, *stems):
    set_value(folder / "params.yaml", "captions_from", captions_from)
    for stem in stems:
        Image.new("RGB", (64, 64), "white").save(folder / f"processed/images/{stem}.png")
    write_drawings(folder / "processed/drawings.csv", [Drawing(f"{stem}.png", "0" * 64, "train") for stem in stems])
    write_user_captions(folder / "processed/captions_user.csv", {"owl.png": ["my owl", "a bird"]})
    return run("python", "-m", "stages.caption_blip", "processed", "--out", "out", cwd=folder, check=False)


def test_names_caption_without_the_captioner_and_the_users_own_win(folder):
    result = caption(folder, "names", "owl", "img_2009-heart-broken-1b9f2c3d")
    assert result.returncode == 0, result.stderr
    assert (folder / "out/owl.txt").read_text() == "my owl\na bird\n"
    assert (folder / "out/img_2009-heart-broken-1b9f2c3d.txt").read_text() == "a line drawing of a heart broken\n"
    assert "2 captions: 1 the user's own, 1 from names, 0 by BLIP" in result.stdout


def test_a_name_that_says_nothing_is_named(folder):
    result = caption(folder, "names", "owl", "img_2009-1b9f2c3d", "dsc_1-1b9f2c3d")
    assert result.returncode == 1
    assert "error: img_2009-1b9f2c3d.png: its name does not say what is drawn (2 in all); rename it" in result.stderr


@pytest.mark.parametrize("captions_from", ["names-then-blip", "blip"])
def test_what_names_do_not_say_is_left_to_the_captioner(folder, captions_from):
    result = caption(folder, captions_from, "owl", "img_2009-1b9f2c3d" if captions_from != "blip" else "rose")
    assert result.returncode == 1
    assert "error: models/embedded/none: no such model folder" in result.stderr
