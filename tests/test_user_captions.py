"""Captions that a page changes lie beside the drawings, as preprocess reads them; no picture is touched."""

import os
import time

import pytest
from other_hand import drawings

from app.user_captions import matching, read_rows, replaced, save_caption
from stages.preprocess.files import look_at
from tattoo_lora.errors import UserError

DRAWINGS = drawings(3)


@pytest.fixture
def root(tmp_path):
    """Sun has the user's caption, moon a model's, star none."""
    raw = tmp_path / "data/raw/hand"
    raw.mkdir(parents=True)
    for name, content in DRAWINGS.items():
        (raw / name).write_bytes(content)
    (raw / "sun.txt").write_text("a sun with a face\n")
    machine = tmp_path / "data/processed/hand/captions_blip"
    machine.mkdir(parents=True)
    (machine / "moon.txt").write_text("a moon\n")
    (machine / "sun.txt").write_text("a sun with a face\n")
    return tmp_path


def row(root, name):
    return next(row for row in read_rows(root, "hand") if row.source == f"{name}.png")


def test_the_rows_hold_whose_caption_it_is(root):
    captions = {row.source: (row.own, row.machine, row.caption) for row in read_rows(root, "hand")}
    assert captions == {
        "moon.png": ("", "a moon", "a moon"),
        "star.png": ("", "", ""),
        "sun.png": ("a sun with a face", "", "a sun with a face"),
    }


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("a star", "a star"),
        ("  ein\t Stern\u00a0 ü ", "ein Stern ü"),
        (" a star \r\n\n  five rays", "a star\nfive rays"),
        ("<b>**x**</b>", "<b>**x**</b>"),
        ("", ""),
        (" ", ""),
    ],
)
def test_a_caption_is_what_preprocess_reads_then_and_an_empty_one_goes(root, typed, kept):
    for ending in (".txt", ".caption"):
        (root / "data/raw/hand/star").with_suffix(ending).write_text("before\n")
    save_caption(row(root, "star"), typed)
    star = next(file for file in look_at(root / "data/raw/hand") if file.source == "star.png")
    assert star.caption == kept
    assert (root / "data/raw/hand/star.txt").exists() == bool(kept)
    assert {name: (root / "data/raw/hand" / name).read_bytes() for name in DRAWINGS} == DRAWINGS
    assert not list((root / "data/raw/hand").glob("*.partial"))


@pytest.mark.parametrize(("typed", "why"), [("x" * 2001, "longer than 2000 bytes"), ("a\x07b", "not a text")])
def test_a_caption_that_preprocess_refuses_is_not_saved(root, typed, why):
    with pytest.raises(UserError, match=f"sun.png: caption not saved: {why}; allowed are 2000 bytes"):
        save_caption(row(root, "sun"), typed)
    assert (root / "data/raw/hand/sun.txt").read_text() == "a sun with a face\n"
    assert not list((root / "data/raw/hand").glob("*.partial"))


def test_a_caption_that_is_linked_to_a_cache_is_replaced_and_not_written_into(root, tmp_path):
    os.link(root / "data/raw/hand/sun.txt", tmp_path / "cache")
    save_caption(row(root, "sun"), "another")
    assert (tmp_path / "cache").read_text() == "a sun with a face\n"


def test_words_are_replaced_whole_and_in_own_captions_only_unless_asked(root):
    rows = read_rows(root, "hand")
    assert {row.source: new for row, new in replaced(rows, "A", "the").items()} == {"sun.png": "the sun with the face"}
    assert {row.source: new for row, new in replaced(rows, "a moon", r"\1", with_machine=True).items()} == {
        "moon.png": r"\1"
    }
    assert replaced(rows, "fac", "x") == replaced(rows, "ace", "x") == {}
    assert list(replaced(rows, "with a face", "").values()) == ["a sun"]
    (root / "data/raw/hand/sun.txt").write_text("a sun\nrays, a face\nface\n")
    assert list(replaced(read_rows(root, "hand"), "face", "").values()) == ["a sun\nrays, a"]
    with pytest.raises(UserError, match="find: write the words to look for"):
        replaced(rows, " ", "x")


def test_drawings_are_searched_by_name_and_caption(root):
    rows = read_rows(root, "hand")
    assert [row.source for row in matching(rows, "FACE sun")] == ["sun.png"]
    assert len(matching(rows, "")) == 3 and matching(rows, "sun none") == []


def test_five_thousand_drawings_are_listed_within_two_seconds(tmp_path):
    raw = tmp_path / "data/raw/hand"
    raw.mkdir(parents=True)
    for i in range(5000):
        (raw / f"drawing {i}.png").write_bytes(DRAWINGS["sun.png"])
        if i % 2:
            (raw / f"drawing {i}.txt").write_text(f"a drawing, {i}")
    begun = time.process_time()
    rows = read_rows(tmp_path, "hand")
    took = time.process_time() - begun
    print(f"5,000 drawings listed in {took:.2f} s")
    assert len(rows) == 5000 and sum(bool(row.own) for row in rows) == 2500
    assert took < 2
