"""Tables as CSV: a dataclass is a row, its fields are the columns."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file

Row = TypeVar("Row")


def write_table(path: Path, row_type: type[Row], rows: Iterable[Row]) -> None:
    """Write the rows in their order."""
    names = [field.name for field in fields(row_type)]
    _write(path, names, ([getattr(row, name) for name in names] for row in rows))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As write_table, of one row or more whose columns no dataclass lists."""
    _write(path, [*rows[0]], (row.values() for row in rows))


def _write(path: Path, names: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write the table; floats get six digits after the point."""
    with replace_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row] for row in rows)


def read_table(path: Path, row_type: type[Row]) -> list[Row]:
    """The rows of a table that preprocess wrote, in their order; UserError if there is no table with these columns."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro preprocess`")
    columns = {field.name: field.type for field in fields(row_type)}
    with path.open(newline="", encoding="utf-8") as table:
        reader = csv.DictReader(table)
        if reader.fieldnames != [*columns]:
            raise UserError(
                f"{path}: columns found: {', '.join(reader.fieldnames or ['none'])}; needed: {', '.join(columns)}; "
                "run `dvc repro preprocess`"
            )
        return [row_type(**{name: read(row[name]) for name, read in columns.items()}) for row in reader]
