"""Stencils measured as a print would be: rendered back to pixels from the files."""

import re
import shutil
from io import BytesIO

import numpy as np
import pytest
import resvg_py
from conftest import ROOT, run
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import distance_transform_edt
from skimage.measure import label

from app.stencil.__main__ import main
from app.stencil.files import to_svg
from app.stencil.ink import make_stencil, read_picture
from app.stencil.options import Options

OPTIONS = Options(width_mm=90)


def paper(size=128):
    image = Image.new("RGB", (size, size), "white")
    return image, ImageDraw.Draw(image)


def ring():
    image, pen = paper()
    pen.ellipse((4, 4, 123, 123), outline="black", width=4)
    return image


def stencil_ink(picture, options):
    return make_stencil(picture, options).ink


def pieces(ink):
    return label(ink, connectivity=2).max()


def test_a_closed_circle_stays_one_piece_with_one_hole():
    ink = stencil_ink(ring(), OPTIONS)
    assert ink.shape == (1063, 1063)  # 90 mm at 300 dpi
    assert pieces(ink) == 1
    assert pieces(~ink) == 2  # within and without


def test_strokes_keep_their_width():
    image, pen = paper(90)
    pen.rectangle((10, 40, 79, 44), "black")  # 5 px of 90: 5 mm on 90 mm
    rows = stencil_ink(image, OPTIONS).any(axis=1).sum()
    assert rows / 300 * 25.4 == pytest.approx(5, abs=0.3)


def test_specks_and_pinholes_go_and_lines_stay():
    image, pen = paper()
    pen.rectangle((20, 20, 100, 40), "black")
    pen.rectangle((50, 28, 50, 28), "white")
    pen.point([(110, 110), (5, 90)], "black")
    ink = stencil_ink(image, Options(width_mm=90, speck_mm2=1.0))
    assert (pieces(ink), pieces(~ink)) == (1, 1)
    kept = stencil_ink(image, Options(width_mm=90, speck_mm2=0.01))
    assert (pieces(kept), pieces(~kept)) == (3, 2)


def test_thin_strokes_are_widened_to_what_was_asked():
    image, pen = paper(256)
    pen.line((20, 128, 235, 128), "black", 1)
    wide = stencil_ink(image, Options(width_mm=90, min_stroke_mm=1.5))
    assert 2 * distance_transform_edt(wide).max() / 300 * 25.4 == pytest.approx(1.5, abs=0.2)
    assert wide.sum() > stencil_ink(image, OPTIONS).sum()


def test_the_threshold_is_the_grey_below_which_is_ink():
    image, pen = paper()
    pen.rectangle((10, 10, 59, 117), (150, 150, 150))  # 0.59
    pen.rectangle((70, 10, 119, 117), (60, 60, 60))  # 0.24
    shares = [stencil_ink(image, Options(width_mm=90, threshold=threshold)).mean() for threshold in (0.4, 0.8)]
    assert shares == pytest.approx([50 * 108 / 128**2, 2 * 50 * 108 / 128**2], rel=0.03)


def test_mirror_turns_it_around():
    image, pen = paper()
    pen.rectangle((10, 10, 30, 100), "black")
    assert np.array_equal(stencil_ink(image, Options(width_mm=90, mirror=True)), stencil_ink(image, OPTIONS)[:, ::-1])


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "CMYK"])
def test_every_kind_of_picture_gives_the_same_stencil(mode):
    whole = stencil_ink(ring(), OPTIONS)
    assert (stencil_ink(ring().convert(mode), OPTIONS) != whole).mean() < 0.001


def test_transparency_is_paper():
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (20, 20, 60, 60))
    assert stencil_ink(image, OPTIONS).mean() == pytest.approx((40 / 128) ** 2, rel=0.05)


def test_the_svg_is_the_png_in_outlines():
    for name in ("owl", "skull", "anchor"):
        ink = stencil_ink(Image.open(ROOT / f"data/raw/flash/{name}.png"), OPTIONS)
        svg = to_svg(ink, OPTIONS)
        assert re.search(r'<svg [^>]*width="90mm" height="[\d.]+mm"', svg)
        pixels = svg.replace('width="90mm"', f'width="{ink.shape[1]}"').replace('mm" viewBox', '" viewBox')
        pixels = re.sub(r'height="[\d.]+"', f'height="{ink.shape[0]}"', pixels, count=1)
        rendered = Image.open(BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=pixels, background="white")))).convert("L")
        assert rendered.size == ink.shape[::-1]
        assert ((np.asarray(rendered) < 128) != ink).mean() < 0.01


def test_the_svg_has_the_size_of_the_print_in_mm_and_a_unit_for_each_pixel():
    ink = np.zeros((300, 600), dtype=bool)
    ink[100:200, 100:500] = True
    head = to_svg(ink, Options(width_mm=62.5)).split("\n")[1]
    assert 'width="62.5mm" height="31.25mm" viewBox="0 0 600 300"' in head


def test_from_the_command_line(tmp_path):
    names = [str(ROOT / f"data/raw/flash/{name}.png") for name in ("owl", "key")]
    shown = run(
        *("python", "-m", "app.stencil", *names, "--width-mm", "60", "--transparent"), "--out", str(tmp_path), cwd=ROOT
    )
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {f"{n}.stencil.{kind}" for n in ("owl", "key") for kind in ("png", "svg")} | {"stencils.pdf"}
    assert all(name in shown.stdout for name in files)
    with Image.open(tmp_path / "owl.stencil.png") as image:
        assert image.mode == "LA" and image.width == 709
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    run("python", "-m", "app.stencil", names[0], "--width-mm", "60", "--out", str(tmp_path), cwd=ROOT)
    with Image.open(tmp_path / "owl.stencil.png") as image:
        assert image.mode == "1"


def test_pictures_that_give_no_stencil_are_named(tmp_path):
    ImageOps.expand(paper()[0]).save(tmp_path / "white.png")
    image, pen = paper()
    pen.point((64, 64), "black")
    image.save(tmp_path / "speck.png")
    (tmp_path / "text.png").write_text("no picture")
    said = {
        "white.png": "white.png: nothing to trace: the picture is all of one grey",
        "speck.png": "speck.png: nothing is left: all pieces are smaller than the specks to remove",
        "text.png": "text.png: no picture (",
    }
    for name, message in said.items():
        arguments = [str(tmp_path / name), "--width-mm", "20", "--out", str(tmp_path / "out")]
        failed = run("python", "-m", "app.stencil", *arguments, cwd=ROOT, check=False)
        assert failed.returncode == 1 and message in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.slow
def test_a_piece_of_300_mm_takes_ten_seconds_and_a_gigabyte_at_most(tmp_path):
    sheet = Image.new("RGB", (1500, 1500), "white")
    for number, path in enumerate(sorted((ROOT / "data/raw/flash").glob("*.png"))[:25]):
        picture = ImageOps.contain(Image.open(path).convert("RGB"), (290, 290))
        sheet.paste(picture, (number % 5 * 300, number // 5 * 300))
    sheet.save(tmp_path / "sheet.png")
    code = (
        "import re, time; from app.stencil.__main__ import main; start = time.time(); main()\n"
        "seconds = time.time() - start\n"
        # Not getrusage's: that of a process begins at its parent's, and pytest's may be larger.
        "print(seconds, re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    arguments = [str(tmp_path / "sheet.png"), "--width-mm", "300", "--out", str(tmp_path)]
    shown = run("python", "-c", code, *arguments, cwd=ROOT)
    seconds, kibibytes = map(float, shown.stdout.split("\n")[-2].split())
    assert seconds < 10 and kibibytes < 1e9 / 1024


OWL = str(ROOT / "data/raw/flash/owl.png")
MISTAKES = {
    "--width-mm nan": "--width-mm nan: allowed is 5 to 1000",
    "--width-mm inf": "--width-mm inf: allowed is 5 to 1000",
    "--width-mm 0.01": "--width-mm 0.01: allowed is 5 to 1000",
    "--width-mm 10000": "--width-mm 10000: allowed is 5 to 1000",
    "--width-mm 0": "--width-mm 0: allowed is 5 to 1000",
    "--width-mm 1001": "--width-mm 1001: allowed is 5 to 1000",
    "--margin-mm 4": "--margin-mm 4: allowed is 5 to 45",
    "--overlap-mm 16": "--overlap-mm 16: allowed is 0 to 15",
    "--threshold 5": "--threshold 5: allowed is 0 to 1",
    "--threshold 1": "owl.png: all of it is ink: the threshold is too high",
    "--dpi 3": "--dpi 3: allowed is 72 to 1200",
    "--dpi 1200 --width-mm 160": "owl.png: 7559 x 11626 pixels are too many; lower --dpi or the width",
    "--smooth-mm nan": "--smooth-mm nan: allowed is 0 to 10",
    "--speck-mm2 -1": "--speck-mm2 -1: allowed is 0 to 1000",
    "--min-stroke-mm inf": "--min-stroke-mm inf: allowed is 0 to 20",
    "--min-gap-mm -2": "--min-gap-mm -2: allowed is 0 to 20",
    "--line-mm 0": "--line-mm 0: allowed is 0.1 to 20",
    "--thin-mm -1": "--thin-mm -1: allowed is 0 to 20",
    "--close-gaps-mm 21": "--close-gaps-mm 21: allowed is 0 to 20",
    "--shade-mm 0": "--shade-mm 0: allowed is 0.5 to 20",
    "--shading dots": "owl.png: nothing to shade: the picture has no greys",
    f"--out {ROOT}/README.md": "README.md: nothing can be written there (File exists)",
    "--out /proc/nowhere": "--out /proc/nowhere: nothing can be written there (",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_number_out_of_bounds_is_one_line_and_nothing_is_written(options, tmp_path, capsys, monkeypatch):
    out = [] if "--out" in options else ["--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["stencil", OWL, OWL, "--width-mm", "60", *out, *options.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1 and MISTAKES[options] in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_pictures_of_the_same_name_have_files_of_their_own(tmp_path, monkeypatch):
    shutil.copy(ROOT / "data/raw/flash/key.png", tmp_path / "owl.png")
    pictures = [OWL, str(tmp_path / "owl.png"), OWL]
    monkeypatch.setattr("sys.argv", ["stencil", *pictures, "--width-mm", "30", "--out", str(tmp_path / "out")])
    main()
    owl, key, again = ((tmp_path / f"out/owl{n}.stencil.png").read_bytes() for n in ("", "-2", "-3"))
    assert owl == again != key


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
def test_a_turned_picture_is_taken_as_it_is_seen(tmp_path, mode):
    image, pen = paper(60)
    pen.rectangle((10, 10, 50, 20), "black")
    seen = image.crop((0, 0, 60, 30)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    seen.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.tif", exif=exif)
    assert read_picture(tmp_path / "turned.tif").convert("RGB").tobytes() == seen.convert("RGB").tobytes()
    seen.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)  # as a phone does
    assert read_picture(tmp_path / "turned.png").tobytes() == seen.convert("RGB").tobytes()
