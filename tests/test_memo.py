"""What the memo keeps, under which key, and what a write that stops leaves behind."""

import pytest
from conftest import room_for

from tattoo_lora.memo import Memo, content_key


@pytest.fixture
def memo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Memo("test")


def test_what_was_written_is_read_by_its_key_and_suffix(memo):
    memo.write("ab12", ".txt", b"one")
    assert memo.read("ab12", ".txt") == b"one"
    assert memo.read("ab12", ".png") is None and memo.read("ab13", ".txt") is None
    memo.write("ab12", ".txt", b"other")
    assert memo.read("ab12", ".txt") == b"other"
    assert Memo("another").read("ab12", ".txt") is None


def test_a_write_that_stops_in_the_middle_leaves_nothing_or_what_was_there(memo):
    for before in (None, b"whole"):
        if before:
            memo.write("ab12", ".png", before)
        with room_for(1000), pytest.raises(OSError):
            memo.write("ab12", ".png", bytes(5000))
        assert memo.read("ab12", ".png") == before


def test_each_value_and_their_order_count_for_the_key():
    keys = [content_key(*values) for values in ((1, 2), (2, 1), (1,), (1, "2"), (1, None), (12,))]
    assert len(set(keys)) == len(keys)
    assert content_key(1, 2) == keys[0]
