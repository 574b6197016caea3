"""Drawings tried on made-up skin: their size, their bend, and the skin that shows through them."""

import io

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from app.tryon import SCALES, Placement, jpeg, main, px_per_mm, read_upright, small, to_linear, to_srgb, try_on

OWL = ROOT / "data/raw/flash/owl.png"


def skin(width=900, height=700):
    """Skin with pores, lit from the left."""
    pores = gaussian_filter(np.random.default_rng(0).normal(size=(height, width)), 1.0)
    light = np.linspace(0.7, 0.4, width) * (1 + 0.15 * pores)
    return Image.fromarray(to_srgb(light[..., None] * np.array([0.9, 0.6, 0.45])))


def bar(width=200, height=40):
    """Ink from edge to edge."""
    picture = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(picture).rectangle((0, 10, width - 1, height - 11), "black")
    return picture


def darkened(photo, tried):
    """(N, 2): x, y of the pixels that have lost more than half of their light."""
    before, after = (to_linear(np.asarray(image)).mean(axis=2) for image in (photo, tried))
    return np.argwhere(after < 0.5 * before)[:, ::-1]


@pytest.mark.parametrize(("thing", "ends"), [("1-euro", (50, 600, 143, 600)), ("bank-card", (60, 80, 210, 280))])
@pytest.mark.parametrize("rotate", [0, 35, -90])
@pytest.mark.parametrize("picture", [bar(), bar(2000, 400)], ids=["small", "large"])
def test_a_drawing_of_80_mm_measures_80_mm_by_the_scale_on_the_photo(thing, ends, rotate, picture):
    photo, scale = skin(), px_per_mm(ends, SCALES[thing])
    tried = try_on(picture, photo, Placement(80, (450, 350), rotate), scale)
    along = np.array([np.cos(np.radians(rotate)), np.sin(np.radians(rotate))])
    found = darkened(photo, tried) @ along
    assert (np.ptp(found) + 1) / scale == pytest.approx(80, abs=1)
    assert (found.max() + found.min() + 1) / 2 == pytest.approx(np.array([450, 350]) @ along, abs=1.5)


def test_around_a_limb_the_camera_sees_the_chord_and_along_it_the_length():
    photo, girth, scale = skin(), 260.0, 5.0
    radius = girth / 2 / np.pi
    across = Placement(80, (450, 350), bend="cylinder", girth_mm=girth)
    found = np.ptp(darkened(photo, try_on(bar(), photo, across, scale))[:, 0]) + 1
    assert found / scale == pytest.approx(2 * radius * np.sin(40 / radius), abs=0.5)  # 67.8 mm
    along = Placement(80, (450, 350), bend="cylinder", girth_mm=girth, axis=0)
    found = np.ptp(darkened(photo, try_on(bar(), photo, along, scale))[:, 0]) + 1
    assert found / scale == pytest.approx(80, abs=1)


def test_what_goes_around_the_limb_is_not_seen():
    photo, girth = skin(), 100.0
    tried = try_on(bar(), photo, Placement(90, (450, 350), bend="cylinder", girth_mm=girth), 5.0)
    assert (np.ptp(darkened(photo, tried)[:, 0]) + 1) / 5 == pytest.approx(girth / np.pi, abs=0.5)


@pytest.mark.parametrize("ink", ["fresh", "healed"])
def test_the_skin_shows_through_the_ink_and_is_untouched_beside_it(ink):
    photo = skin()
    tried = try_on(bar(200, 100), photo, Placement(100, (450, 350), ink=ink), 5.0)
    before, after = (to_linear(np.asarray(image))[..., 0] for image in (photo, tried))
    inside = np.s_[300:400, 300:600]
    pores = [light[inside] / gaussian_filter(light, 4)[inside] - 1 for light in (before, after)]
    assert np.corrcoef(*map(np.ravel, pores))[0, 1] > 0.95  # dark skin has steps of 5% in 8 bits
    assert pores[1].std() / pores[0].std() == pytest.approx(1, abs=0.05)
    assert after[inside].mean() < 0.2 * before[inside].mean()
    beside = np.abs(np.asarray(photo)[:220].astype(int) - np.asarray(tried)[:220]).max()
    assert beside == 0


def test_paper_that_is_not_quite_white_leaves_no_rectangle():
    photo = skin()
    noise = np.random.default_rng(0).normal(scale=3, size=(40, 200, 3))
    grey = np.where(np.asarray(bar()) == 0, 20, 235) + noise
    tried = try_on(Image.fromarray(grey.astype(np.uint8)), photo, Placement(100, (450, 350)), 5.0)
    rows = to_linear(np.asarray(tried)).mean(axis=(1, 2)) / to_linear(np.asarray(photo)).mean(axis=(1, 2))
    assert rows[302:318].min() > 0.995 and rows[350] < 0.6


def test_lines_finer_than_the_photo_become_a_grey_and_no_pattern():
    photo, hatching = Image.new("RGB", (200, 200), (200, 200, 200)), np.full((1500, 1500, 3), 255, np.uint8)
    hatching[:, ::3] = 0
    tried = np.asarray(try_on(Image.fromarray(hatching), photo, Placement(100, (100, 100)), 1.7))
    assert tried[50:150, 50:150].std() < 2 and tried[100, 100, 0] < 190


def test_colours_stay():
    photo, red = Image.new("RGB", (400, 300), (200, 200, 200)), bar()
    red.paste((220, 20, 20), (50, 10, 150, 30))
    color = try_on(red, photo, Placement(60, (200, 150), ink="fresh"), 5.0).getpixel((200, 150))
    assert color[0] > 3 * color[1] and color[0] > 3 * color[2]


def test_a_photo_is_turned_as_its_exif_says_and_the_result_tells_nothing_of_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    seen = skin(80, 60)
    seen.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    photo = read_upright(tmp_path / "turned.png", "photo")
    assert photo.tobytes() == seen.tobytes()
    written = Image.open(io.BytesIO(jpeg(try_on(bar(), photo, Placement(10, (40, 30)), 4.0))))
    assert written.size == (80, 60) and not written.getexif() and b"a camera" not in jpeg(photo)


def test_a_smaller_view_shows_what_the_photo_at_full_size_shows():
    photo, placement = skin(), Placement(60, (500, 300), 20, "cylinder", 200)
    full = try_on(bar(), photo, placement, 5.0).resize((450, 350), Image.Resampling.LANCZOS)
    view = try_on(bar(), *small(photo, placement, 5.0, 450))
    assert view.size == (450, 350)
    assert np.abs(np.asarray(view).astype(int) - np.asarray(full)).mean() < 1


@pytest.fixture
def files(tmp_path):
    skin().save(tmp_path / "arm.jpg", quality=95)
    Image.new("RGB", (60, 60), "white").save(tmp_path / "empty.png")
    Image.new("RGB", (60, 60), "black").save(tmp_path / "black.png")
    (tmp_path / "text.jpg").write_text("no photo")
    return tmp_path


def call_main(monkeypatch, files, options, picture=OWL, photo="arm.jpg"):
    words = [str(picture), str(files / photo), "--out", str(files / "out"), *options.split()]
    monkeypatch.setattr("sys.argv", ["tryon", *words])
    main()


def test_from_the_command_line_only_the_result_is_written(files, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in files.iterdir()}
    call_main(monkeypatch, files, "--width-mm 50 --scale-px 50,600,143,600 --coin 1-euro --rotate 10")
    assert [path.name for path in (files / "out").iterdir()] == ["owl.on.arm.jpg"]
    assert capsys.readouterr().out == f"{files}/out/owl.on.arm.jpg\n"
    assert {path: path.read_bytes() for path in before} == before
    assert Image.open(files / "out/owl.on.arm.jpg").size == (900, 700)


GOOD = "--width-mm 80 --scale-px 50,600,143,600 --scale-mm 23.25"
MISTAKES = {
    "--width-mm 0": "--width-mm 0: allowed is ",
    "--width-mm nan": "--width-mm nan: allowed is ",
    "--width-mm 1001": "--width-mm 1001: allowed is ",
    "--scale-mm 0": "--scale-mm 0: allowed is 5 to 1000",
    "--girth-mm 0": "--girth-mm 0: allowed is 30 to 2000",
    "--rotate inf": "--rotate inf: allowed is -360 to 360",
    "--axis 1e9": "--axis 1000000000: allowed is -360 to 360",
    "--scale-px 50,600,60,600": "the scale's ends are 10 px apart, allowed is at least 20",
    "--scale-px 50,600,nan,600": "--scale-px: nan,600 is outside of the photo of 900 x 700 px",
    "--at 900,20": "--at: 900,20 is outside of the photo of 900 x 700 px",
    "--bend cylinder --girth-mm 60": "80 mm do not go around a limb of 60 mm; make it smaller or turn it",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(options, files, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, files, f"{GOOD} {options}")
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and MISTAKES[options] in said and said.count("\n") == 1
    assert not list((files / "out").glob("*"))


@pytest.mark.parametrize(
    ("picture", "photo", "said"),
    [
        ("empty.png", "arm.jpg", "empty.png: nothing to try on: the picture is all of one grey"),
        ("black.png", "arm.jpg", "black.png: nothing to try on: the picture is all of one grey"),
        ("text.jpg", "arm.jpg", "text.jpg: no picture (no picture in a format that is read)"),
        ("empty.png", "text.jpg", "text.jpg: no photo (no picture in a format that is read)"),
        ("none.png", "arm.jpg", "none.png: no picture (No such file or directory)"),
    ],
)
def test_a_picture_that_is_none_is_one_line(picture, photo, said, files, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, files, GOOD, files / picture, photo)
    heard = capsys.readouterr().err
    assert stopped.value.code == 1 and said in heard and heard.count("\n") == 1


@pytest.mark.parametrize("options", ["--at 5", "--scale-px 1,2,3", "--coin doubloon", "--bend ball"])
def test_what_cannot_be_read_is_said_with_the_usage(options, files, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, files, f"{GOOD} {options}")
    assert stopped.value.code == 2 and options.split()[0] in capsys.readouterr().err
