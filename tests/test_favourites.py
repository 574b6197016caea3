"""What was drawn and what was marked, on the disk."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, run
from PIL import Image

from app.favourites import (
    FAVOURITES,
    SKETCHES,
    favourites,
    history,
    is_favourite,
    keep_sketch,
    mark,
    unmark,
)
from app.generate import OUT, Settings, save
from app.tryon import Upload
from tattoo_lora.errors import UserError


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def draw(color, seed=7, age=0):
    settings = Settings("an owl", "", seed, 1, 4.0, 64, 64, "b", None, "float32")
    path = save(Image.new("RGB", (64, 64), color), settings, OUT)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_a_favourite_outlives_the_picture_and_two_of_one_name_are_two():
    first = draw("red")
    mark(first)
    assert is_favourite(first)
    again = draw("blue")
    assert again == first and not is_favourite(again)
    mark(again)
    mark(again)
    assert len(favourites()) == 2
    first.unlink()
    assert len(favourites()) == 2
    for favourite in favourites():
        assert is_favourite(favourite) and mark(favourite) == favourite
        unmark(favourite)
    assert favourites() == [] and list(FAVOURITES.iterdir()) == []


def test_history_has_the_newest_first_and_only_pictures_that_hold_their_settings():
    old, new = draw("red", seed=1, age=5), draw("red", seed=2)
    shutil.copy(ROOT / "data/raw/flash/owl.png", OUT / "flash-1.png")
    shutil.copy(new, OUT / "an-owl_2.stencil.png")
    (OUT / "torn.png").write_bytes(new.read_bytes()[:40])
    assert history() == [new, old]


def test_a_sketch_is_kept_under_its_checksum_and_never_outside_of_its_folder():
    raw = (ROOT / "data/raw/flash/owl.png").read_bytes()
    for name in ("../../owl.png", "owl.png"):
        path, digest = keep_sketch(Upload(name, raw))
    assert [str(file) for file in Path().rglob("*.png")] == [path] and Path(path).parent == SKETCHES
    assert len(digest) == 64
    with pytest.raises(UserError, match="note.png: no sketch"):
        keep_sketch(Upload("note.png", b"not a picture"))
    assert len(list(SKETCHES.iterdir())) == 1


@pytest.mark.parametrize("folder", [OUT, FAVOURITES, SKETCHES])
def test_what_is_drawn_and_kept_makes_no_stage_stale(folder):
    """The report depends on all of runs/samples."""
    assert run("dvc", "check-ignore", f"{folder}/owl.png", cwd=ROOT, check=False).stdout.strip() == f"{folder}/owl.png"
