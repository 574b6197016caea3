import pytest

from stages.preprocess.files import output_stem
from tattoo_lora.data.file_names import caption_from_name, split_words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("butterfly.png", "butterfly"),
        ("IMG_2009 heart-broken.jpg", "heart broken"),
        ("owl2.png", "owl"),
        ("birds/Snake and Dagger (1).JPG", "snake and dagger"),
        ("2024-03-01_rose copy 2.tiff", "rose"),
        ("wolf tattoo design v3 final.png", "wolf tattoo design"),
        ("心脏.png", "心脏"),
        ("花12.png", "花"),
        ("übung_Löwe.png", "übung löwe"),
        ("scan of a ship.png", "ship"),
        ("IMG_2009.jpg", ""),
        ("DSC0042.jpg", ""),
        ("IMG_E1234 (2).jpg", ""),
        ("PXL_20240101_101112.MP.jpg", "mp"),  # two letters may be a word: ox
        ("Scan 12.png", ""),
        ("tattoo flash 12.png", ""),
        ("Screenshot 2024-01-02 at 10.31.12.png", ""),
        ("3f2504e0-4f89-11d3-9a0c-0305e82c3301.png", ""),
        ("9b74c9897bac770f.png", ""),
        ("deadbeefcafe.png", ""),
        ("a.png", ""),
    ],
)
def test_a_name_says_what_is_drawn_or_nothing(source, words):
    assert " ".join(split_words(output_stem(source))) == words


def test_a_word_that_the_name_was_cut_in_is_left_out():
    stem = output_stem("A very old sailing ship with butterflies everywhere.png")
    assert " ".join(split_words(stem)) == "very old sailing ship"


@pytest.mark.parametrize(
    ("stem", "caption"),
    [
        ("owl", "a line drawing of an owl"),
        ("heart-broken", "a line drawing of a heart broken"),
        ("roses", "a line drawing of roses"),
        ("compass", "a line drawing of a compass"),
        ("心脏-1b9f2c3d", "a line drawing of 心脏"),
        ("img_2009-1b9f2c3d", ""),
    ],
)
def test_the_caption_has_the_form_of_blips(stem, caption):
    assert caption_from_name(stem) == caption
