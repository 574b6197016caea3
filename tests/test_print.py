"""The page Print: what can be printed, the choice of pictures, the flash sheet."""

import contextlib
import shutil

import pypdfium2
import pytest
from conftest import ROOT
from PIL import Image
from test_dashboard import opened, pictures, press, texts

from app.favourites import mark
from app.generate import OUT, Settings, save
from app.print_choice import caption

FLASH = {"print_section": "Flash sheet"}


@pytest.fixture
def drawn(tmp_path):
    """A project with three drawn pictures."""
    (tmp_path / "dvc.yaml").touch()
    with contextlib.chdir(tmp_path), Image.open(ROOT / "data/raw/flash/owl.png") as owl:
        for seed in (1, 2, 3):
            settings = Settings(f"an owl {seed}, ink", "", seed, 1, 4.0, 64, 64, "b", None, "float32")
            save(owl.convert("L").resize((256, 256)), settings, OUT)
    return tmp_path


@pytest.mark.parametrize("part", ["Stencil", "Flash sheet"])
def test_where_nothing_was_drawn_the_page_leads_to_draw(tmp_path, part):
    (tmp_path / "dvc.yaml").touch()
    with opened(tmp_path, "print", print_section=part) as app:
        assert "There is nothing to print yet." in app.info[0].value
        assert [button.label for button in app.button] == ["Draw"]


def test_favourites_are_offered_alone_and_without_any_what_was_drawn_last(drawn):
    with opened(drawn, "print") as app:
        assert "Nothing is kept yet" in texts(app) and pictures(app) == 3 + 1
        mark(OUT / "an-owl-2-ink_2.png")
        app.run()
        assert "Nothing is kept yet" not in texts(app) and pictures(app) == 1 + 1


def test_the_chosen_picture_is_the_one_that_becomes_a_stencil_and_another_choice_drops_it(drawn):
    with opened(drawn, "print") as app:
        other = next(button for button in app.button if button.label == "○ Choose")
        name = other.key.removeprefix("choose ").rpartition("/")[2].removesuffix(".png")
        other.click().run()
        press(app, "Make the stencil")
        assert len(app.download_button) == 3 and (drawn / OUT / f"{name}.stencil.svg").is_file()
        next(button for button in app.button if button.label == "○ Choose").click().run()
        assert not app.download_button


def test_a_flash_sheet_of_the_ticked_pictures_with_their_captions_is_downloaded_and_nothing_is_written(drawn):
    before = sorted(path.name for path in (drawn / OUT).iterdir())
    with opened(drawn, "print", **FLASH) as app:
        assert sorted(field.value for field in app.text_input) == ["An owl 1", "An owl 2", "An owl 3", "Flash"]
        app.checkbox[0].uncheck().run()
        press(app, "Make the sheet")
        _, pdf = app.session_state["flash_sheet"]
        text = pypdfium2.PdfDocument(pdf)[0]
        assert round(text.get_width() / 72 * 25.4) == 210 and len(app.download_button) == 1
        app.number_input[0].set_value(290)
        press(app, "Make the sheet")
        assert app.error[0].value == "No sheet can be made of these." and "does not fit on A4" in texts(app)
        assert not app.download_button  # of the sheet before
        for box in app.checkbox:
            box.uncheck()
        app.run()
        press(app, "Make the sheet")
        assert app.warning[0].value == "Tick at least one picture."
    assert sorted(path.name for path in (drawn / OUT).iterdir()) == before


def test_a_caption_is_the_prompt_up_to_its_comma_or_the_name(drawn):
    with contextlib.chdir(drawn):
        shutil.copy(ROOT / "data/raw/flash/owl.png", OUT / "owl.png")
        assert caption(OUT / "an-owl-1-ink_1.png") == "An owl 1" and caption(OUT / "owl.png") == "owl"
