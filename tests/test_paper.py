"""Paper measured as a print would be: pages rendered back to pixels, and laid together by their marks."""

import numpy as np
import pypdfium2
import pytest
from conftest import ROOT
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from app.stencil.paper import FOOTER_MM, PAPERS, Layout, check_height, check_layout, spans, tiles
from app.stencil.sheets import to_pdf
from tattoo_lora.errors import UserError

DPI = 300


def px(mm):
    return round(mm / 25.4 * DPI)


def owl(width_mm):
    """The owl's ink, with half of the pixels that the pages are rendered with."""
    with Image.open(ROOT / "data/raw/flash/owl.png") as image:
        width = px(width_mm) // 2
        return np.asarray(image.convert("L").resize((width, round(width * image.height / image.width)))) < 128


def square():
    ink = np.zeros((100, 100), dtype=bool)
    ink[10:90, 10:90] = True
    return ink


def read_pages(tmp_path, stencils, width_mm, layout):
    count = to_pdf(stencils, tmp_path / "s.pdf", width_mm, layout)
    pages = list(pypdfium2.PdfDocument(tmp_path / "s.pdf"))
    assert len(pages) == count
    return pages


def dark(page):
    return np.asarray(page.render(scale=DPI / 72).to_pil().convert("L")) < 128


def to_mm(page):
    return [round(points / 72 * 25.4, 1) for points in page.get_size()]


def page_text(page):
    return " ".join(page.get_textpage().get_text_range().split())


def mark_places(strip, length_mm):
    """The two places, in mm along the strip, of the lines that cross it."""
    places = np.flatnonzero(strip.mean(axis=0) > 0.9)
    groups = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return [(group.mean() + 0.5) * length_mm / strip.shape[1] for group in groups]


def put_together(pages, layout, columns):
    """The large stencil again, and its height and width: each page's marks are laid on those of its neighbours."""
    rim = slice(px(layout.margin_mm - 3.8), px(layout.margin_mm - 1.2))  # where the marks are, above and to the left
    whole = np.zeros((px(700), px(700)), dtype=bool)
    y = height = 0.0
    for i, page in enumerate(pages):
        ink, page_mm = dark(page), np.array(page.get_size()) / 72 * 25.4
        left, right = mark_places(ink[rim], page_mm[0])
        top, bottom = mark_places(ink[:, rim].T, page_mm[1])
        if i % columns == 0:
            x, y = 0.0, y + height
        width, height = right - left, bottom - top
        rows, parts = np.arange(px(y), px(y + height)), np.arange(px(x), px(x + width))
        # Pages are rendered to whole pixels, which stretches them a little.
        from_rows = (top - y + (rows + 0.5) / DPI * 25.4) * ink.shape[0] / page_mm[1]
        from_parts = (left - x + (parts + 0.5) / DPI * 25.4) * ink.shape[1] / page_mm[0]
        whole[np.ix_(rows, parts)] = ink[np.ix_(from_rows.astype(int), from_parts.astype(int))]
        x += width
    return whole, (y + height, x)


def test_the_pdf_measures_what_was_asked(tmp_path):
    ink = np.zeros((200, 200), dtype=bool)
    ink[80:121] = True  # from edge to edge
    (page,) = read_pages(tmp_path, [("bar", ink)], 90, Layout())
    assert to_mm(page) == [210, 297]
    columns = np.flatnonzero(dark(page)[px(12 + 45)])  # through the middle of the stencil
    assert (columns[-1] - columns[0] + 1) / DPI * 25.4 == pytest.approx(90, abs=0.2)
    bar = dark(page)[-px(12)]
    assert max(np.diff(np.flatnonzero(np.diff(np.r_[0, bar, 0])))) / DPI * 25.4 == pytest.approx(50, abs=0.2)


@pytest.mark.parametrize("page", PAPERS)
@pytest.mark.parametrize("margin", [12, 25])
def test_every_paper_has_its_size_and_its_margin(page, margin, tmp_path):
    (sheet,) = read_pages(tmp_path, [("square", square())], 50, Layout(page, margin))
    width, height = PAPERS[page]
    assert to_mm(sheet) == [width, height or 50 + 2 * margin + FOOTER_MM]
    # At half a millimetre within the margin there is only a mark's end: the rest keeps away from it.
    inked = dark(sheet)[px(margin + 6) : px(margin + 44)]
    assert np.flatnonzero(inked.any(axis=0))[0] == pytest.approx(px(margin + 5), abs=2)


def test_several_fit_on_a_sheet_and_more_take_another(tmp_path):
    pages = read_pages(tmp_path, [("square", square())] * 7, 80, Layout())
    assert len(pages) == 2  # two by three on the first
    assert dark(pages[0])[: px(270)].sum() == pytest.approx(6 * px(64) ** 2, rel=0.02)


@pytest.mark.parametrize(
    ("layout", "width_mm", "columns", "rows"),
    [
        (Layout("A4"), 280, 2, 2),
        (Layout("Letter", 25, 15), 220, 1, 3),
        (Layout("A4", overlap_mm=0), 200, 1, 2),
        (Layout("roll-110", 25), 150, 3, 1),
    ],
    ids=lambda value: value.page if isinstance(value, Layout) else None,
)
def test_a_large_stencil_is_whole_again_when_its_pages_are_put_together_by_their_marks(
    tmp_path, layout, width_mm, columns, rows
):
    ink = owl(width_mm)
    overview, *pages = read_pages(tmp_path, [("owl", ink)], width_mm, layout)
    assert len(pages) == columns * rows
    assert f"on {columns * rows} pages, {columns} wide and {rows} high" in page_text(overview)
    assert f"page 2 of {len(pages)}" in page_text(pages[1])
    again, size = put_together(pages, layout, columns)
    single = ink.repeat(2, axis=0).repeat(2, axis=1)
    assert size == pytest.approx((width_mm * ink.shape[0] / ink.shape[1], width_mm), abs=0.2)
    again = again[: single.shape[0], : single.shape[1]]
    near = 2 * 2 + 1  # px to both sides: 0.17 mm
    edges = maximum_filter(single, near) & ~minimum_filter(single, near)
    assert not (again != single)[~edges].any()


def test_pages_lie_if_that_makes_them_fewer(tmp_path):
    wide = np.ones((100, 180), dtype=bool)
    (page,) = read_pages(tmp_path, [("wide", wide)], 260, Layout("A4"))
    assert to_mm(page) == [297, 210] and "page" not in page_text(page)


def test_what_fits_shares_a_sheet_before_the_large_ones(tmp_path):
    stencils = [("square", square()), ("strip", np.ones((300, 50), dtype=bool)), ("square", square())]
    pages = read_pages(tmp_path, stencils, 60, Layout("A4"))
    assert len(pages) == 4 and "strip: 60 x 360 mm on 2 pages" in page_text(pages[1])


def test_a_stencil_on_many_pages_lies_in_the_file_once(tmp_path):
    ink = np.random.default_rng(0).random((900, 600)) < 0.5  # nothing that compresses
    to_pdf([("noise", ink)], tmp_path / "one.pdf", 100, Layout("A4"))
    to_pdf([("noise", ink)], tmp_path / "many.pdf", 500, Layout("A4"))
    assert (tmp_path / "many.pdf").stat().st_size < 1.2 * (tmp_path / "one.pdf").stat().st_size


@pytest.mark.parametrize("length", [50, 186, 186.1, 362, 999])
@pytest.mark.parametrize("overlap", [0, 10])
def test_parts_cover_the_length_fit_and_overlap(length, overlap):
    parts = spans(length, 186, overlap)
    assert parts[0][0] == 0 and parts[-1][1] == pytest.approx(length)
    assert all(end - begin <= 186 + 1e-9 for begin, end in parts)
    overlaps = [end - begin for (_, end), (begin, _) in zip(parts, parts[1:], strict=False)]
    assert overlaps == pytest.approx([overlap] * (len(parts) - 1))
    assert len(parts) == 1 or (len(parts) - 1) * (186 - overlap) + overlap < length  # no page too many


def test_neighbours_have_the_same_mark():
    first, second = tiles(300, 100, (186, 261), 10)
    assert first.marked[2] == second.marked[0] == (first.printed[2] + second.printed[0]) / 2
    assert first.marked[:2] == (0, 0) and second.marked[2:] == pytest.approx((300, 100))


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Layout(margin_mm=46), "--margin-mm 46: allowed is 5 to 45"),
        (Layout(overlap_mm=float("nan")), "--overlap-mm nan: allowed is 0 to 15"),
    ],
)
def test_a_length_out_of_bounds_is_one_line(layout, said):
    with pytest.raises(UserError, match=said):
        check_layout(layout)


def test_what_is_longer_than_two_metres_is_one_line():
    with pytest.raises(UserError, match="tall.png: 100 x 3000 mm, allowed is a height of at most 2000 mm"):
        check_height("tall.png", 100, 3000)
