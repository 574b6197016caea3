import base64

import pytest
from PIL import Image

from stages.report.web_page import plain, web_page


def test_pictures_are_inside_the_page_and_tables_are_tables(tmp_path):
    (tmp_path / "plots").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "plots/a & b.png")
    page = web_page("Winner: <x>", "# Hello\n\n![a](<plots/a & b.png>)\n\n| a | b |\n|---|---:|\n| 1 | 2 |\n", tmp_path)
    content = base64.b64encode((tmp_path / "plots/a & b.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{content}"' in page
    assert "<title>Winner: &lt;x&gt;</title>" in page and "<td>1</td>" in page


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "a|b", "*x* _y_ `z`", "[a](http://b)", "back\\slash", "&amp;", "two\nlines"]
)
def test_text_from_disk_is_shown_as_it_is(tmp_path, text):
    cell = web_page("t", f"| x |\n|---|\n| {plain(text)} |\n", tmp_path).split("<td>")[1].split("</td>")[0]
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
    assert cell == shown
