"""Captions are read for every drawing, or the drawings that lack one are named."""

import re

import pytest

from tattoo_lora.data.captions import read_captions, write_caption
from tattoo_lora.errors import UserError


@pytest.mark.parametrize(
    ("caption", "message"),
    [(None, "no caption for owl (1 in all); run `dvc repro`"), ("", "empty caption for owl (1 in all); write one")],
)
def test_a_drawing_without_a_caption_is_named(tmp_path, caption, message):
    write_caption(tmp_path, "key", "an old key")
    if caption is not None:
        write_caption(tmp_path, "owl", caption)
    assert read_captions(tmp_path, ["key"]) == {"key": "an old key"}
    with pytest.raises(UserError, match=re.escape(message)):
        read_captions(tmp_path, ["key", "owl"])
