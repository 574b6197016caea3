"""Tables: what is written is read again, and a table of an earlier version is named."""

from dataclasses import dataclass

import pytest

from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.data.tables import read_table, write_table
from tattoo_lora.errors import UserError


@dataclass(frozen=True)
class Row:
    name: str
    count: int
    share: float


def test_what_is_written_is_read_again_with_its_types(tmp_path):
    rows = [Row('a, "b"\nc', 3, 0.25), Row("鴞", 0, 1 / 3)]
    write_table(tmp_path / "table.csv", Row, rows)
    assert (tmp_path / "table.csv").read_bytes().startswith(b'name,count,share\n"a, ""b""\nc",3,0.250000\n')
    assert read_table(tmp_path / "table.csv", Row) == [rows[0], Row("鴞", 0, 0.333333)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_that_an_editor_on_windows_saved_is_read_as_it_was(tmp_path, end):
    (tmp_path / "table.csv").write_text("name,count,share\na,1,0.5\n", newline=end)
    assert read_table(tmp_path / "table.csv", Row) == [Row("a", 1, 0.5)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "not found; run `dvc repro preprocess`"),
        ("file,split\na.png,val\n", "columns found: file, split; needed: file, sha256, split; run `dvc repro preproc"),
        ("", "columns found: none; needed: file, sha256, split; run `dvc repro preprocess`"),
    ],
)
def test_a_table_that_is_not_there_or_of_other_columns_is_an_error(tmp_path, content, says):
    if content is not None:
        (tmp_path / "drawings.csv").write_text(content)
    with pytest.raises(UserError, match=f"drawings.csv: {says}"):
        read_drawings(tmp_path / "drawings.csv")
