"""Captions are read for every drawing, or the drawings that lack one are named."""

import re

import pytest

from tattoo_lora.data.captions import read_captions, read_user_captions, write_caption, write_user_captions
from tattoo_lora.errors import UserError


@pytest.mark.parametrize(
    ("caption", "message"),
    [(None, "no caption for owl (1 in all); run `dvc repro`"), ("", "empty caption for owl (1 in all); write one")],
)
def test_a_drawing_without_a_caption_is_named(tmp_path, caption, message):
    write_caption(tmp_path, "key", "an old key")
    if caption is not None:
        write_caption(tmp_path, "owl", caption)
    assert read_captions(tmp_path, ["key"]) == {"key": ["an old key"]}
    with pytest.raises(UserError, match=re.escape(message)):
        read_captions(tmp_path, ["key", "owl"])


def test_several_captions_stand_on_a_line_each_and_empty_lines_are_none(tmp_path):
    write_caption(tmp_path, "key", "an old\n key", "iron")
    assert (tmp_path / "key.txt").read_bytes() == b"an old key\niron\n"
    (tmp_path / "owl.txt").write_bytes(b"\r\n an  owl \r\n\r\na bird")
    captions = {"key": ["an old key", "iron"], "owl": ["an owl", "a bird"]}
    assert read_captions(tmp_path, ["key", "owl"]) == captions
    write_user_captions(tmp_path / "user.csv", captions)
    assert read_user_captions(tmp_path / "user.csv") == captions
