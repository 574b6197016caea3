"""Image to image: what is drawn over a sketch."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT, call, copy_project
from PIL import Image
from test_generate import refused

from app import generate
from app.generate import Settings, from_stored, read_settings, stored
from app.sketch import fitted

SKETCH = ROOT / "data/raw/flash/owl.png"


@pytest.fixture
def project(processed, tmp_path):
    copy = copy_project(processed, tmp_path / "p")
    shutil.copy(SKETCH, copy / "my-owl.png")
    return copy


def drawn(project, out, *options):
    arguments = ("an owl", "--sketch", "my-owl.png", "--steps", "10", *options, "--out", out, "--json")
    return [project / one["files"][0] for one in json.loads(call(generate, project, *arguments))]


def test_the_more_is_changed_the_less_of_the_sketch_is_left_and_each_seed_differs(project):
    little, *others = drawn(project, "little", "--change", "0.1", "--n", "2")
    [much] = drawn(project, "much", "--change", "1")
    sketch = np.asarray(fitted(SKETCH, (128, 128)), float)
    away = [np.abs(np.asarray(Image.open(path).convert("RGB"), float) - sketch).mean() for path in (little, much)]
    assert away[0] < 0.7 * away[1]
    assert others[0].read_bytes() != little.read_bytes()


def test_a_picture_over_a_sketch_is_drawn_again_to_the_byte_unless_the_sketch_is_another(project):
    [path] = drawn(project, "first", "--change", "0.5")
    assert read_settings(path).change == 0.5
    call(generate, project, "--again", path, "--out", "again")
    assert (project / "again" / path.name).read_bytes() == path.read_bytes()
    shutil.copy(ROOT / "data/raw/flash/skull.png", project / "my-owl.png")
    said = refused(generate, "--again", str(path), project=project)
    assert f"my-owl.png: is another sketch than the one that {path} was drawn from" in said


def test_the_whole_sketch_is_in_the_middle_on_white(tmp_path):
    Image.new("RGB", (40, 10), "black").save(tmp_path / "wide.png")
    pixels = np.asarray(fitted(tmp_path / "wide.png", (64, 64)))
    assert pixels[:20].min() == 255 and pixels[44:].min() == 255 and pixels[28:36].max() == 0


def test_a_picture_without_a_sketch_holds_what_it_held_before_there_were_sketches():
    settings = Settings("x", "", 7, 1, 4.0, 64, 64, "b", None, "float32")
    assert not {"sketch", "sketch_sha256", "change"} & stored(settings).keys()
    assert from_stored(stored(settings)) == settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sketch", "none.png"), "none.png: no sketch (No such file or directory)"),
        (("--sketch", "README.md"), "README.md: no sketch (no picture in a format that is read)"),
        (("--sketch", str(SKETCH), "--change", "nan"), "--change nan: allowed is 0.05 to 1"),
        (
            ("--sketch", str(SKETCH), "--change", "0.1", "--steps", "5"),
            "--change 0.1: of 5 steps not one is left; give more of either",
        ),
    ],
)
def test_a_mistake_is_one_line(options, said, tmp_path):
    assert said in refused(generate, "x", *options, "--out", str(tmp_path))
