"""The table of defects follows the code. Planting them takes a quarter of an hour: `python tests/plant_defects.py`."""

import ast
import re
from collections import Counter

import pytest
from conftest import ROOT
from plant_defects import TABLE, Defect, read_table


def test_each_defect_stands_for_a_text_that_is_there_once_and_still_is_python():
    defects = read_table()
    assert len(defects) >= 74 and max(Counter(defect.id for defect in defects).values()) == 1
    for defect in defects:
        ast.parse(defect.planted(ROOT))


def test_each_file_stands_in_the_table_once():
    """Of two keys of one name YAML keeps the last alone: the defects of the first would never be planted."""
    files = re.findall(r"(?m)^(\S+):$", TABLE.read_text(encoding="utf-8"))
    assert max(Counter(files).values()) == 1


def test_the_tests_that_should_fail_are_there():
    for test in {test for defect in read_table() for test in defect.tests}:
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"(?m)^def {name}\(", text), test


def test_a_text_that_the_code_has_left_behind_is_named(tmp_path):
    (tmp_path / "x.py").write_text("a = 1\nb = 1\n")
    for old, times in (("c", 0), ("1", 2)):
        with pytest.raises(ValueError, match=f"odd: '{old}' stands {times} times in x.py, not once"):
            Defect("odd", "x.py", old, "2", ()).planted(tmp_path)
    assert Defect("odd", "x.py", "a = 1", "a = 2", ()).planted(tmp_path) == "a = 2\nb = 1\n"
