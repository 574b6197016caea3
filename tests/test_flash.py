"""Flash sheets measured as they come out of the printer, and read as the visitor of a studio reads them."""

import numpy as np
import pypdfium2
import pytest
from conftest import ROOT
from PIL import Image, ImageDraw
from skimage.measure import label, regionprops

from app import flash
from app.flash import DPI, PAGES, lay_out

OWL = ROOT / "data/raw/flash/owl.png"


def boxes(path, count):
    """`count` files with a black box of 100 x 50 px on 200 x 100 px."""
    for i in range(count):
        picture = Image.new("L", (200, 100), 255)
        ImageDraw.Draw(picture).rectangle((50, 25, 149, 74), 0)
        picture.save(path / f"box_{i}.png")
    return [str(path / f"box_{i}.png") for i in range(count)]


def call_main(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["flash", *map(str, words)])
    flash.main()


def large_pieces(page):
    """Width and height in mm of what is larger than letters and is no frame."""
    found = regionprops(label(np.asarray(page.convert("L")) < 128))
    return [
        tuple(round(side / DPI * 25.4, 1) for side in (right - left, bottom - top))
        for top, left, bottom, right in (piece.bbox for piece in found)
        if 10 < (bottom - top) / DPI * 25.4 < 150
    ]


@pytest.mark.parametrize("page", PAGES)
def test_each_drawing_has_its_real_size_in_png_and_pdf(page, tmp_path, monkeypatch):
    pictures = boxes(tmp_path, 3)
    call_main(monkeypatch, *pictures, "--width-mm", 60, 80, 100, "--page", page, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"flash-1.png", "flash.pdf"}
    document = pypdfium2.PdfDocument(tmp_path / "out/flash.pdf")
    assert [points / 72 * 25.4 for points in document[0].get_size()] == pytest.approx(PAGES[page], abs=0.1)
    printed = document[0].render(scale=DPI / 72).to_pil()
    with Image.open(tmp_path / "out/flash-1.png") as png:
        assert png.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
        for sheet in (png, printed):
            sizes = sorted(large_pieces(sheet))
            assert np.ravel(sizes) == pytest.approx(np.ravel([(30, 15), (40, 20), (50, 25)]), abs=0.5)


def test_the_caption_is_the_files_name_or_what_was_asked_and_the_size_that_of_the_ink(tmp_path):
    (picture,) = boxes(tmp_path, 1)
    drawing = flash.make_drawing(flash.Path(picture), 80, "a caption that is longer than thirty letters")
    assert drawing.size == "40 × 20 mm" and drawing.caption == "a caption that is longer than\nthirty letters"


def test_more_than_a_page_holds_comes_on_the_next_and_nothing_overlaps(tmp_path, monkeypatch):
    pictures = boxes(tmp_path, 9)
    call_main(monkeypatch, *pictures, "--width-mm", 160, "--title", "Boxes", "--out", tmp_path / "out")
    pages = [Image.open(tmp_path / f"out/flash-{number}.png") for number in (1, 2)]
    sizes = [large_pieces(page) for page in pages]
    assert sum(map(len, sizes)) == 9 and all(size == pytest.approx((80, 40), abs=0.5) for size in sum(sizes, []))
    assert len(pypdfium2.PdfDocument(tmp_path / "out/flash.pdf")) == 2


def test_a_long_title_stays_within_the_frame():
    ink = Image.new("L", (300, 200), 0)
    short, long = (
        np.asarray(lay_out([flash.Drawing(ink, "", "")], "A4", title)[0]) for title in ("Ink", "Ink of spring " * 9)
    )
    inside = slice(flash.px(13), flash.px(210 - 13))
    assert np.array_equal(np.delete(short, inside, axis=1), np.delete(long, inside, axis=1))


def test_captions_of_a_row_stand_at_one_height():
    ink = Image.new("L", (300, 200), 0)
    sheets = [
        lay_out([flash.Drawing(ink, caption, "25 × 17 mm") for caption in captions], "A4", "")[0]
        for captions in (("nnn", "nnn"), ("nnn", "ggg"))
    ]
    differs = np.argwhere(np.asarray(sheets[0]) != np.asarray(sheets[1]))[:, 1]
    assert differs.min() > sheets[0].width / 2  # the drawing beside it has not moved


MISTAKES = {
    "--width-mm 0": "--width-mm 0: allowed is 5 to 1000",
    "--width-mm 40 50": "--width-mm: found 2, allowed: one, or one for each of the 3 pictures",
    "--width-mm 40 --captions a b": "--captions: found 2, allowed: one, or one for each of the 3 pictures",
    "--width-mm 250": "owl.png: 203 × 343 mm does not fit on A4, which has 182 × 269 mm",
    "--width-mm 40 --out /proc/nowhere": "--out /proc/nowhere: nothing can be written there (",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(options, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, OWL, OWL, OWL, "--out", tmp_path / "out", *options.split())
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and MISTAKES[options] in said and said.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("color", ["white", "black"])
def test_a_picture_without_lines_is_named(color, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (60, 60), color).save(tmp_path / "plain.png")
    with pytest.raises(SystemExit):
        call_main(monkeypatch, tmp_path / "plain.png", "--width-mm", 40, "--out", tmp_path)
    assert "plain.png: nothing to trace: the picture is all of one grey" in capsys.readouterr().err
