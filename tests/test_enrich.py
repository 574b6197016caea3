import re
import shutil

import pandas as pd
import pytest
from conftest import ROOT, call, run, set_value
from hypothesis import given
from hypothesis import strategies as st

import stages.enrich
from stages.enrich import LONGEST_PHRASE, changes, drop_repeats, enrich_caption, tidy
from tattoo_lora.data.captions import write_caption, write_user_captions

SUFFIX = "clean line tattoo, high contrast, stencil, no shading"
words = st.sampled_from(
    "一只老虎在花丛中 線條， vo\u0301la\u0301nt "
    "a rose skull clean line tattoo high contrast stencil no shading of , Rose ,, übung arafed".split()
)
captions = st.lists(words, max_size=30).map(" ".join) | st.text(max_size=60)


def count_words(text):
    return len(re.findall(r"\w+|,", text))


def enrich(caption, suffix=SUFFIX, limit=24):
    return enrich_caption(caption, suffix, count_words, limit)


def repeats(text):
    keys = [word.strip(",").casefold() for word in text.split()]
    return [
        keys[i : i + n]
        for n in range(1, LONGEST_PHRASE + 1)
        for i in range(len(keys) - 2 * n + 1)
        if keys[i : i + n] == keys[i + n : i + 2 * n]
    ]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a drawing of a rose", f"a drawing of a rose, {SUFFIX}"),
        ("a rose a rose,  rose ,", f"a rose, {SUFFIX}"),
        ("a drawing of a drawing of a skull", f"a drawing of a skull, {SUFFIX}"),
        ("an owl, clean line tattoo", f"an owl, {SUFFIX}"),
        ("", SUFFIX),
        (f"a key, {SUFFIX}", f"a key, {SUFFIX}"),
        (f"a key, {SUFFIX}, {SUFFIX}", f"a key, {SUFFIX}"),
        ("arafed drawing of an owl", f"drawing of an owl, {SUFFIX}"),
        ("an araffe, a drawing of a drawing of a cat", f"a drawing of a cat, {SUFFIX}"),
        ("araffes with araphed wings", f"with wings, {SUFFIX}"),
        ("a giraffe on an arabesque", f"a giraffe on an arabesque, {SUFFIX}"),
        ("an owl and a key on a", f"an owl and a key, {SUFFIX}"),
        ("one two three four five six one two three four five six", f"one two three four five six, {SUFFIX}"),
    ],
)
def test_examples(caption, expected):
    assert enrich(caption) == expected


def test_a_long_caption_is_shortened_and_the_suffix_is_not():
    enriched = enrich(" ".join(f"word{i}" for i in range(60)))
    assert enriched.endswith(f", {SUFFIX}")
    assert enriched.startswith("word0 word1")
    assert count_words(enriched) <= 24


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        ("一只老虎在盛开的牡丹花丛中" * 6, "一只老虎在盛开的牡丹花丛中一只老"),
        ("虎" * 16 + "，" + "花" * 30, "虎" * 16),
        ("tiger " + "虎" * 40, "tiger " + "虎" * 10),
        ("x" + "e\u0301" * 40, "x" + "e\u0301" * 7),
        ("x" * 60, "x" * 16),
        ("word " + "x" * 60, "word"),
    ],
)
def test_a_caption_without_blanks_is_cut_and_not_dropped(caption, kept):
    def count_letters(text):
        return len(text)

    enriched = enrich_caption(caption, SUFFIX, count_letters, len(f", {SUFFIX}") + 16)
    assert enriched == f"{kept}, {SUFFIX}"
    assert enrich_caption(enriched, SUFFIX, count_letters, len(f", {SUFFIX}") + 16) == enriched


@given(captions)
def test_enriching_twice_is_enriching_once(caption):
    assert enrich(enrich(caption)) == enrich(caption)


@given(captions)
def test_the_suffix_is_never_lost(caption):
    assert enrich(caption).endswith(SUFFIX)


@given(captions)
def test_no_word_or_phrase_stands_next_to_itself(caption):
    assert not repeats(enrich(caption))
    assert not repeats(drop_repeats(tidy(caption)))


@given(captions)
def test_the_token_limit_holds(caption):
    assert count_words(enrich(caption)) <= 24


@given(captions)
def test_no_blank_is_doubled_or_left_at_an_end(caption):
    enriched = enrich(caption)
    assert enriched == " ".join(enriched.split())
    assert " ," not in enriched and ",," not in enriched


def test_without_a_suffix_the_caption_is_only_tidied():
    assert enrich("a rose ,a rose", suffix="") == "a rose"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("an owl", ["suffix added"]),
        (f"an owl, {SUFFIX}", []),
        ("arafed owl", ["invented words removed", "suffix added"]),
        ("an owl an owl", ["repeats removed", "suffix added"]),
        (" ".join(f"word{i}" for i in range(60)), ["shortened", "suffix added"]),
    ],
)
def test_what_was_changed_is_said(caption, expected):
    assert changes(caption, enrich(caption), SUFFIX) == expected


def test_the_table_has_both_captions_whose_they_are_and_their_lengths(tmp_path):
    (tmp_path / "captions_blip").mkdir()
    write_caption(tmp_path / "captions_blip", "owl", "arafed owl")
    write_caption(tmp_path / "captions_blip", "key", 'my own key, "old"', "iron iron")
    write_user_captions(tmp_path / "captions_user.csv", {"key.png": ['my own key, "old"', "iron iron"]})
    run("python", "-m", "stages.enrich", str(tmp_path), cwd=ROOT)
    lines = [f'my own key, "old", {SUFFIX}', f"iron, {SUFFIX}"]
    assert (tmp_path / "captions_blip_plus/key.txt").read_text().splitlines() == lines
    table = pd.read_csv(tmp_path / "captions.csv")
    assert table["enriched"][table["file"] == "key.png"].tolist() == lines
    table = table.drop_duplicates("file").set_index("file")
    assert table["origin"].to_dict() == {"key.png": "user", "owl.png": "blip"}
    assert table.loc["owl.png", "caption"] == "arafed owl"
    assert table.loc["owl.png", "enriched"] == f"owl, {SUFFIX}"
    assert table.loc["owl.png", "changes"] == "invented words removed; suffix added"
    assert table.loc["key.png", "enriched"] == f'my own key, "old", {SUFFIX}'
    assert (table["enriched_tokens"] > table["tokens"]).all() and (table["tokens"] > 2).all()


def test_a_suffix_longer_than_the_text_encoder_takes_is_refused(tmp_path, capsys):
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "captions_blip").mkdir()
    write_caption(tmp_path / "captions_blip", "owl", "an owl")
    write_user_captions(tmp_path / "captions_user.csv", {})
    shutil.copy(ROOT / "params.yaml", tmp_path)
    set_value(tmp_path / "params.yaml", "suffix", " ".join(["line"] * 30))
    call(stages.enrich, tmp_path, ".")  # with the marks at both ends 32 tokens, as many as the encoder takes
    set_value(tmp_path / "params.yaml", "suffix", " ".join(["line"] * 31))
    with pytest.raises(SystemExit):
        call(stages.enrich, tmp_path, ".")
    assert "error: params.yaml: enrich.suffix: 33 tokens, allowed: at most 32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("captions_blip/owl.txt", "captions_blip: no captions; run"),
        ("captions_user.csv", "captions_user.csv: not found"),
    ],
)
def test_without_its_inputs_it_says_which(tmp_path, missing, says):
    (tmp_path / "captions_blip").mkdir()
    write_caption(tmp_path / "captions_blip", "owl", "an owl")
    write_user_captions(tmp_path / "captions_user.csv", {})
    (tmp_path / missing).unlink()
    result = run("python", "-m", "stages.enrich", str(tmp_path), cwd=ROOT, check=False)
    assert result.returncode == 1 and says in result.stderr
