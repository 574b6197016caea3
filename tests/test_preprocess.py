import numpy as np
import pytest
from PIL import Image

from stages.preprocess import background, find_drawings, fit_square, open_rgb, preprocess
from tattoo_lora.errors import UserError
from tattoo_lora.manifest import read_manifest, write_manifest
from tattoo_lora.split import file_sha256, is_held_out


def draw(path, size=(80, 40), color="white", seed=0):
    """A page with one black bar; the seed makes its bytes its own."""
    image = Image.new("RGB", size, color)
    image.paste("black", (10, 10, 20 + seed, 20))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def run_preprocess(raw, out, val_share=0.5, **options):
    out.mkdir(exist_ok=True)
    return preprocess(
        raw, out, **{"resolution": 32, "fit": "pad", "val_share": val_share, "vanilla_caption": "line art"} | options
    )


@pytest.fixture
def raw(tmp_path):
    for i in range(8):
        draw(tmp_path / "raw" / f"d{i}.png", seed=i)
    return tmp_path / "raw"


def test_every_drawing_becomes_a_square_rgb_png_with_a_caption_and_a_row(raw, tmp_path):
    drawings = run_preprocess(raw, tmp_path / "out")
    assert [d.file for d in drawings] == [f"d{i}.png" for i in range(8)]
    for drawing in drawings:
        with Image.open(tmp_path / "out/images" / drawing.file) as image:
            assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "PNG")
        assert (tmp_path / "out/captions_vanilla" / f"{drawing.stem}.txt").read_text() == "line art\n"
        assert (drawing.width, drawing.height) == (80, 40)
        assert drawing.sha256 == file_sha256(raw / drawing.source)
    write_manifest(tmp_path / "m.csv", drawings)
    assert read_manifest(tmp_path / "m.csv") == drawings


def test_padding_keeps_the_whole_drawing_on_its_own_background(tmp_path):
    image = Image.new("RGB", (90, 30), (250, 240, 200))
    image.paste("black", (0, 10, 90, 20))
    padded = np.asarray(fit_square(image, 30, "pad"))
    assert tuple(padded[0, 0]) == background(image) == (250, 240, 200)
    assert (padded[15, 2] < 60).all() and (padded[15, 27] < 60).all()


def test_cropping_keeps_the_middle(tmp_path):
    image = Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))
    assert tuple(np.asarray(fit_square(image, 30, "crop"))[15, 15]) == (0, 0, 255)
    assert (np.asarray(fit_square(image, 30, "crop"))[15, :, 0] < 128).mean() > 0.9


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "t.png")
    assert open_rgb(tmp_path / "t.png").getpixel((4, 4)) == (255, 255, 255)


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert open_rgb(tmp_path / "deep.png").getpixel((4, 4))[0] in (127, 128)


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "r.jpg", exif=exif)
    assert open_rgb(tmp_path / "r.jpg").size == (20, 40)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tiff", "bmp", "gif"])
def test_common_formats_are_read(raw, tmp_path, suffix):
    draw(raw / f"extra.{suffix}", seed=40)
    assert "extra.png" in [d.file for d in run_preprocess(raw, tmp_path / "out")]


def test_names_may_be_unicode_and_spaced_and_in_subfolders(raw, tmp_path):
    draw(raw / "ネコ" / "schöne Möwe 龍.png", seed=41)
    drawings = {d.file: d for d in run_preprocess(raw, tmp_path / "out")}
    assert drawings["schöne Möwe 龍.png"].source == "ネコ/schöne Möwe 龍.png"


def test_adding_a_drawing_moves_no_other(raw, tmp_path):
    before = {d.file: d.split for d in run_preprocess(raw, tmp_path / "a")}
    draw(raw / "aaa.png", seed=50)
    after = {d.file: d.split for d in run_preprocess(raw, tmp_path / "b")}
    assert {file: after[file] for file in before} == before


def test_the_held_out_share_is_about_the_one_asked_for():
    contents = [f"{i:064x}" for i in range(0, 16**16, 16**16 // 1000)]
    assert [is_held_out(c[-16:] + c[:-16], 0.25) for c in contents].count(True) == pytest.approx(250, abs=2)


def test_an_unreadable_image_is_reported_and_left_out(raw, tmp_path, capsys):
    (raw / "broken.png").write_bytes((raw / "d0.png").read_bytes()[:60])
    drawings = run_preprocess(raw, tmp_path / "out")
    assert len(drawings) == 8
    assert "left out, unreadable: " in capsys.readouterr().err
    assert not (tmp_path / "out/images/broken.png").exists()


def test_notes_beside_drawings_are_no_drawings(raw):
    (raw / "LICENSE.md").write_text("x")
    (raw / ".DS_Store").write_text("x")
    assert len(find_drawings(raw)) == 8


def test_no_drawings_is_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="no drawings; put image files"):
        find_drawings(tmp_path / "raw")


def test_one_drawing_is_an_error(tmp_path):
    draw(tmp_path / "raw/one.png")
    with pytest.raises(UserError, match="1 readable drawing.* of 1; at least two are needed"):
        run_preprocess(tmp_path / "raw", tmp_path / "out")


def test_two_files_with_one_stem_are_an_error(raw):
    draw(raw / "sub" / "D3.jpg")
    with pytest.raises(UserError, match=r"d3.png and sub/D3.jpg would both become d3.png; rename one"):
        find_drawings(raw)


@pytest.mark.parametrize(("share", "advice"), [(1e-9, "0 of 8 .* raise"), (1.0, "8 of 8 .* lower")])
def test_a_split_with_one_side_empty_is_an_error(raw, tmp_path, share, advice):
    with pytest.raises(UserError, match=advice):
        run_preprocess(raw, tmp_path / "out", val_share=share)


def test_running_twice_gives_the_same_bytes(raw, tmp_path):
    first = run_preprocess(raw, tmp_path / "out")
    bytes_of = {d.file: (tmp_path / "out/images" / d.file).read_bytes() for d in first}
    assert run_preprocess(raw, tmp_path / "out") == first
    assert {d.file: (tmp_path / "out/images" / d.file).read_bytes() for d in first} == bytes_of
