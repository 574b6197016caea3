"""What the page Draw does, without and with a browser's form."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from conftest import run
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from streamlit.testing.v1 import AppTest
from test_dashboard import copy, files, light, opened, pictures, press, texts  # noqa: F401

from app.drawing import VARIATIONS, labels, said_settings, seeds_from, strip, variations
from app.favourites import favourites
from app.generate import CHUNK, STRENGTHS, Adapter, Settings, read_settings, save
from tattoo_lora.errors import UserError

OWL = Settings(
    "an owl", "", 7, 2, 4.0, 64, 64, "b", None, "float32", (Adapter("runs/lora/blip/best.safetensors", "0"),)
)


LARGE = """
from pathlib import Path
from app.drawing import show_actions
from app.generate import read_settings
from tattoo_lora.params import load_profile
path = Path("{path}")
show_actions(path, read_settings(path), load_profile("embedded"))
"""


def settings_of(path):
    """The picture's settings, to be put into another."""
    text = PngInfo()
    text.add_itxt(CHUNK, Image.open(path).text[CHUNK])
    return text


def test_a_sheet_says_what_its_pictures_differ_in():
    assert labels(seeds_from(OWL, 2)) == ["seed 7", "seed 8"]
    assert labels(strip(OWL)) == [f"strength {strength:g}" for strength in STRENGTHS]
    assert labels([OWL]) == ["seed 7"]
    base = dataclasses.replace(OWL, adapters=())
    assert labels([base, OWL]) == ["drawn with base", "drawn with blip, strength 1"]
    two = dataclasses.replace(OWL, adapters=(Adapter("ink.safetensors", "0", 0.5), *OWL.adapters))
    assert labels([two, OWL]) == [
        "drawn with ink.safetensors + blip, strength 0.5 + 1",
        "drawn with blip, strength 1",
    ]
    assert [one.adapters[0].strength for one in strip(two)] == [strength / 2 for strength in STRENGTHS]
    assert labels([None, OWL, dataclasses.replace(OWL, prompt="a key")])[0] == ""


def test_settings_are_said_in_full_without_what_is_not_used():
    said = said_settings(dataclasses.replace(OWL, sketch="s.png", change=0.5))
    assert said["Drawn over"] == "s.png" and said["Size"] == "64 × 64 px" and "Not to draw" not in said


def test_the_base_model_has_no_strip_of_strengths():
    with pytest.raises(UserError, match="the base model alone has no strength; draw with a variant"):
        strip(dataclasses.replace(OWL, adapters=()))


def test_variations_are_drawn_over_the_picture_from_other_seeds(tmp_path):
    path = save(Image.new("RGB", (64, 64), "red"), OWL, tmp_path)
    near = variations(path, 0.3)
    assert {one.seed for one in near} == set(range(8, 16)) and {one.sketch for one in near} == {str(path)}
    assert all(one.change == 0.3 and one.prompt == OWL.prompt for one in near)


def test_an_example_fills_the_prompt(light):  # noqa: F811
    with opened(light, "draw") as app:
        app.get("button_group")[0].set_value("a deer").run()
        assert not app.exception and app.text_area[0].value.startswith("a deer, ")


def test_without_favourites_and_drawings_the_page_says_how_to_get_them(light):  # noqa: F811
    for section, said in (("New", "Nothing has been drawn yet."), ("Favourites", "There are no favourites yet.")):
        with opened(light, "draw", draw_section=section) as app:
            assert any(said in info.value for info in app.info)


def test_a_batch_is_drawn_kept_varied_and_drawn_again_and_nothing_else_is_written(copy):  # noqa: F811
    before = files(copy)
    with opened(copy, "draw") as app:
        app.text_area[0].set_value("an owl, ink")
        app.number_input[0].set_value(2)
        press(app, "Draw")
        assert not app.error and pictures(app) == 2 and "seed 8" in texts(app)
        press(app, "☆ Keep")
        assert [button.label for button in app.button].count("★ Kept") == 1 and len(favourites()) == 1
        press(app, "Strip of strengths")
        assert pictures(app) == len(STRENGTHS)
    new = {name for name, changed in files(copy).items() if before.get(name) != changed}
    assert len(new) == 2 + 1 + len(STRENGTHS) - 1  # strength 1 is the picture that was there
    assert all(name.startswith(("runs/samples/adhoc/an-owl-ink_", "runs/samples/favourites/")) for name in new)
    again = run("python", "-m", "app.generate", "--again", sorted(new)[0], "--out", "again", "--json", cwd=copy).stdout
    assert (copy / json.loads(again)[0]["files"][0]).read_bytes() == (copy / sorted(new)[0]).read_bytes()
    with opened(copy, "draw", draw_section="History") as app:  # as after a restart
        assert pictures(app) == 2 + len(STRENGTHS) - 1
        assert read_settings(copy / sorted(new)[0]).prompt == "an owl, ink"
        app = AppTest.from_string(LARGE.format(path=sorted(new)[0]), default_timeout=60).run()
        press(app, "Draw it again to the byte")
        assert "The same bytes." in texts(app)
        Image.open(sorted(new)[0]).rotate(90).save(sorted(new)[0], pnginfo=settings_of(sorted(new)[0]))
        press(app, "Draw it again to the byte")
        assert "Other bytes" in texts(app)
        press(app, f"Draw {VARIATIONS} like it")
        assert len(app.session_state["wanted"]) == VARIATIONS
        near = variations(Path(sorted(new)[0]), 0.5)[:2]
    with opened(copy, "draw", wanted=near) as app:
        assert pictures(app) == 2 and "seed 8" in texts(app) and "wanted" not in app.session_state


def test_an_adapter_that_goes_while_the_page_is_open_cannot_be_chosen_any_more(light):  # noqa: F811
    with opened(light, "draw") as app:
        assert app.selectbox[0].options[-1] == "each, side by side"
        shutil.rmtree(light / "runs/lora")
        press(app, "Draw")
        assert app.selectbox[0].options == ["base"]
        assert any("No adapter has been trained yet" in info.value for info in app.info)


def test_what_cannot_be_read_as_a_sketch_is_said(light):  # noqa: F811
    with opened(light, "draw") as app:
        app.file_uploader[0].upload("note.png", b"no picture")
        press(app, "Draw")
        assert "note.png: no sketch" in texts(app) and app.error[0].value == "Not everything was drawn."
    assert not (light / "runs/samples/sketches").exists()
