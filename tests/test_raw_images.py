"""From any file to a clean square drawing: one picture at a time."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageOps, PngImagePlugin, TiffImagePlugin

from app.stencil.ink import read_picture
from stages.preprocess.raw_images import (
    Rejected,
    background,
    fit_page,
    ink_box,
    looks_like_photo,
    open_rgb,
    page_size,
    prepare,
)
from tattoo_lora.params import load_params

PARAMS = load_params(ROOT).preprocess


def bar(size=(80, 40), paper="white", ink="black"):
    image = Image.new("RGB", size, paper)
    image.paste(ink, (10, 10, 50, 20))
    return image


def prepared(path, **changes):
    return prepare(path, replace(PARAMS, **changes), 32)


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)), dtype=int)


def test_padding_keeps_the_whole_drawing_on_its_own_background():
    image = Image.new("RGB", (90, 30), (250, 240, 200))
    image.paste("black", (0, 10, 90, 20))
    padded = np.asarray(fit_page(image, (0, 0, 90, 30), background(image), (30, 30), "pad"))
    assert tuple(padded[0, 0]) == background(image) == (250, 240, 200)
    assert (padded[15, 2] < 60).all() and (padded[15, 27] < 60).all()


def test_cropping_keeps_the_middle():
    image = Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))
    middle = np.asarray(fit_page(image, (0, 0, 90, 30), (255, 0, 0), (30, 30), "crop"))
    assert tuple(middle[15, 15]) == (0, 0, 255) and (middle[15, :, 0] < 128).mean() > 0.9


@pytest.mark.parametrize(
    ("box", "resolution", "size"),
    [
        ((100, 100), 512, (512, 512)),
        ((100, 300), 512, (288, 864)),
        ((300, 100), 512, (864, 288)),
        ((300, 100), 128, (208, 64)),
        ((100, 130), 512, (448, 576)),
        ((2000, 100), 512, (1024, 256)),
    ],
)
def test_a_bucket_is_the_page_that_shows_the_drawing_largest(box, resolution, size):
    assert page_size(*box, resolution, "bucket") == size
    assert size[0] * size[1] <= resolution**2
    assert page_size(*box, resolution, "pad") == page_size(*box, resolution, "crop") == (resolution, resolution)


def test_in_a_bucket_a_tall_drawing_is_whole_and_larger_than_padded(tmp_path):
    image = Image.new("RGB", (100, 300), "white")
    for y in range(0, 300, 30):
        image.paste("black", (0, y, 100, y + 15))
    image.save(tmp_path / "tall.png")
    pages = {fit: picture(prepared(tmp_path / "tall.png", fit=fit, margin=0.0).png) for fit in ("pad", "bucket")}
    heights = {fit: np.ptp(np.argwhere(page[:, :, 0] < 128)[:, 0]) for fit, page in pages.items()}
    assert pages["bucket"].shape == (48, 16, 3) and pages["pad"].shape == (32, 32, 3)
    assert heights["bucket"] > 1.4 * heights["pad"]


def test_beyond_the_picture_there_is_paper():
    image = Image.new("RGB", (60, 30), "blue")
    square = np.asarray(fit_page(image, (-30, -10, 90, 40), (0, 255, 0), (60, 60), "pad"))
    blue = np.argwhere(square[:, :, 2] > 128)
    assert blue.min(axis=0).tolist() == [22, 15] and blue.max(axis=0).tolist() == [36, 44]  # half as large
    assert (square[:14] == (0, 255, 0)).all()


@pytest.mark.parametrize("size", [(1, 1), (63, 64), (64, 65), (200, 130), (500, 20)])
def test_the_box_holds_all_the_ink_and_nothing_else(size):
    random = np.random.default_rng(sum(size))
    for _ in range(20):
        pixels = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
        ys, xs = random.integers(0, size[1], 3), random.integers(0, size[0], 3)
        pixels[ys, xs, random.integers(0, 3)] = 200
        expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert ink_box(Image.fromarray(pixels), (255, 255, 255)) == expected
    assert ink_box(Image.new("RGB", size, (240, 255, 255)), (255, 255, 255)) is None


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "t.png")
    assert open_rgb(tmp_path / "t.png")[0].getpixel((4, 4)) == (255, 255, 255)


def test_white_ink_on_transparency_becomes_black_on_white(tmp_path):
    image = Image.new("RGBA", (120, 120), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (40, 40, 80, 80))
    image.save(tmp_path / "white.png")
    found = prepared(tmp_path / "white.png")
    assert found.notes[0] == "white on transparent: turned to black on white"
    assert picture(found.png)[16, 16].max() < 20 and picture(found.png)[0, 0].min() > 235
    with pytest.raises(Rejected, match="empty: nothing is drawn on it"):
        prepared(tmp_path / "white.png", invert=False)


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert open_rgb(tmp_path / "deep.png")[0].getpixel((4, 4))[0] in (127, 128)


def test_exif_rotation_is_applied_and_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    bar((40, 20)).save(tmp_path / "r.jpg", exif=exif)
    image, notes = open_rgb(tmp_path / "r.jpg")
    assert image.size == (20, 40) and notes == ["turned as its EXIF says"]


def test_another_colour_profile_is_converted_and_noted(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    Image.new("LAB", (8, 8), (128, 128, 128)).save(tmp_path / "lab.tif", icc_profile=lab.tobytes())
    image, notes = open_rgb(tmp_path / "lab.tif")
    assert image.mode == "RGB" and notes == ["colours converted to sRGB"]
    assert max(abs(level - 119) for level in image.getpixel((4, 4))) <= 3  # L* 50 in sRGB


def test_a_broken_colour_profile_is_noted_and_ignored(tmp_path):
    bar().save(tmp_path / "p.png", icc_profile=b"no profile")
    image, notes = open_rgb(tmp_path / "p.png")
    assert image.getpixel((0, 0)) == (255, 255, 255) and notes == ["colour profile unreadable"]


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    bar().save(tmp_path / "a.gif", save_all=True, append_images=[ImageOps.mirror(bar()), ImageOps.flip(bar())])
    image, notes = open_rgb(tmp_path / "a.gif")
    assert notes == ["first of 3 frames"] and image.getpixel((12, 15)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_the_same_black_bar(tmp_path, mode):
    image = bar().convert("I;16") if mode == "I;16" else bar().convert(mode)
    if mode == "I;16":
        image = image.point(lambda level: level * 257)
    image.save(tmp_path / "m.tif")
    assert ink_box(open_rgb(tmp_path / "m.tif")[0], (255, 255, 255)) == (10, 10, 50, 20)


def test_formats_that_are_handed_to_other_programs_are_not_read(tmp_path):
    bar().save(tmp_path / "e.eps")
    with pytest.raises(Rejected, match="PostScript is not read: export it as PNG, TIFF or JPEG"):
        open_rgb(tmp_path / "e.eps")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("photo.jpg", b"\0\0\0\x18ftypheic" + bytes(80), "HEIC is"),
        ("drawing", b"<?xml version='1.0'?>\n<!-- made by hand -->\n<SVG width='9'/>", "SVG is"),
        ("drawing.svgz", b"\x1f\x8b" + bytes(80), "SVG is"),
        ("a.jxl", b"\xff\x0a" + bytes(80), "JPEG XL is"),
        ("a.png", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(80), "JPEG XL is"),
        ("a.tif", b"II*\0\x10\0\0\0CR\2\0" + bytes(80), r"camera raw \(CR2\) is"),
        ("a.CR3", b"\0\0\0\x18ftypcrx " + bytes(80), r"camera raw \(CR3\) is"),
        ("a.NEF", bytes(80), r"camera raw \(NEF\) is"),
        ("page.psb", b"8BPS\0\2" + bytes(80), "PSB is"),
        ("clip.png", b"\0\0\0\x18ftypmp42" + bytes(80), "a film is"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_what_to_do(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Rejected, match=f"^{says} not read: export it as PNG, TIFF or JPEG$"):
        open_rgb(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "tags", "says"),
    [
        ("a.dng", {0xC612: b"\1\4\0\0"}, r"camera raw \(DNG\)"),
        ("renamed.tif", {0xC612: b"\1\4\0\0"}, r"camera raw \(DNG\)"),
        ("renamed.tif", {0xFE: 1, 0x14A: 8}, "camera raw"),
        ("a.arw", {}, r"camera raw \(ARW\)"),
    ],
)
def test_of_a_camera_raw_the_small_preview_is_not_taken_for_the_picture(tmp_path, name, tags, says):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    bar((320, 240)).save(tmp_path / name, "TIFF", tiffinfo=info)
    with pytest.raises(Rejected, match=f"^{says} is not read"):
        open_rgb(tmp_path / name)
    bar((320, 240)).save(tmp_path / "plain.tif")
    assert open_rgb(tmp_path / "plain.tif")[0].size == (320, 240)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_of_several_pages_the_first_is_read_and_usable_when_the_file_is_closed(tmp_path, mode, compression):
    pages = [page.convert(mode) for page in (bar(), ImageOps.mirror(bar()), bar((30, 30)))]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:], compression=compression)
    image, notes = open_rgb(tmp_path / "m.tif")
    assert notes == ["first of 3 frames"]
    assert ink_box(image, (255, 255, 255)) == (10, 10, 50, 20)


def psd(layers):
    """A PSD, whole and flattened, with that many layers of nothing."""
    layer = struct.pack(">4iH", 0, 0, 0, 0, 0) + b"8BIMnorm" + struct.pack(">4BI", 255, 0, 0, 0, 12) + bytes(12)
    info = struct.pack(">h", layers) + layers * layer
    section = struct.pack(">I", len(info)) + info + bytes(4)
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 40, 80, 8, 3) + bytes(8)
    return header + struct.pack(">I", len(section)) + section + b"\0\0" + np.moveaxis(np.asarray(bar()), 2, 0).tobytes()


@pytest.mark.parametrize("layers", [0, 1, 2, 7])
def test_of_a_psd_all_layers_together_are_read(tmp_path, layers):
    (tmp_path / "a.psd").write_bytes(psd(layers))
    image, notes = open_rgb(tmp_path / "a.psd")
    assert ink_box(image, (255, 255, 255)) == (10, 10, 50, 20) and notes == []


@pytest.mark.parametrize(
    "error",
    [
        AssertionError(),
        struct.error("unpack"),
        SyntaxError("x"),
        OverflowError("x"),
        MemoryError(),
        IndexError("x"),
        KeyError("x"),
        RuntimeError("x"),
        ZeroDivisionError("x"),
        EOFError(),
        RecursionError(),
    ],
)
def test_whatever_a_decoder_raises_rejects_the_file(tmp_path, monkeypatch, error):
    bar().save(tmp_path / "a.png")

    def fail(*_):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", fail)
    with pytest.raises(Rejected, match=f"^unreadable: {str(error) or type(error).__name__}"):
        open_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_tiff_is_turned_as_it_says_and_not_scrambled(tmp_path, mode, orientation):
    image = bar().convert("L").point(lambda level: level * 257, "I") if mode == "I;16" else bar().convert(mode)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = orientation
    image.convert(mode).save(tmp_path / "t.tif", tiffinfo=info)
    exif = Image.Exif()
    exif[0x0112] = orientation
    bar().save(tmp_path / "same.png", exif=exif)
    expected = open_rgb(tmp_path / "same.png")[0]
    for turned in (open_rgb(tmp_path / "t.tif")[0], read_picture(tmp_path / "t.tif")):
        assert turned.size == ((40, 80) if orientation > 4 else (80, 40))
        if turned.mode == "RGB":
            assert np.array_equal(np.asarray(turned), np.asarray(expected))


def test_a_tiff_whose_palette_has_eight_bits_is_not_black(tmp_path):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    levels = [255 if i == 255 else 0 for i in range(256)] * 3
    info[0x140] = levels
    info.tagtype[0x140] = 3
    bar().convert("L").save(tmp_path / "p.tif", tiffinfo=info)
    content = (tmp_path / "p.tif").read_bytes()
    photometric = struct.pack("<HHII", 0x106, 3, 1, 1)
    assert content.count(photometric) == 1
    (tmp_path / "p.tif").write_bytes(content.replace(photometric, struct.pack("<HHII", 0x106, 3, 1, 3)))
    assert Image.open(tmp_path / "p.tif").mode == "P"
    assert ink_box(open_rgb(tmp_path / "p.tif")[0], (255, 255, 255)) == (10, 10, 50, 20)


def test_channels_of_sixteen_bits_that_lie_apart_are_rejected_and_not_read_as_noise(tmp_path):
    entries = [
        (0x100, 3, 1, 40),
        (0x101, 3, 1, 40),
        (0x102, 3, 3, 200),
        (0x103, 3, 1, 1),
        (0x106, 3, 1, 2),
        (0x111, 4, 3, 206),
        (0x115, 3, 1, 3),
        (0x116, 3, 1, 40),
        (0x117, 4, 3, 218),
        (0x11C, 3, 1, 2),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    offsets = struct.pack("<3I", *(300 + 3200 * i for i in range(3)))
    content = (b"II*\0" + struct.pack("<I", 8) + directory).ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16)
    content += offsets + struct.pack("<3I", 3200, 3200, 3200)
    (tmp_path / "planes.tif").write_bytes(content.ljust(300, b"\0") + bytes(9600))
    with pytest.raises(Rejected, match="channels of 16 bits that lie apart are not read"):
        open_rgb(tmp_path / "planes.tif")


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
def test_greys_of_fewer_bits_in_sixteen_keep_their_brightness(tmp_path, top):
    deep = np.asarray(bar().convert("L"), dtype=np.float64) / 255 * top
    deep[0, 0] = top / 2
    Image.fromarray(deep.round().astype(np.uint16)).save(tmp_path / "deep.tif")
    image = open_rgb(tmp_path / "deep.tif")[0]
    assert [image.getpixel(at)[0] for at in ((79, 39), (12, 12))] == [255, 0]
    assert image.getpixel((0, 0))[0] == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize(
    ("top", "beyond"), [(1.0, 1.0), (1.0, 1.2), (255.0, 255.0), (255.0, 300.0), (65535.0, 65535.0)]
)
def test_floats_of_any_usual_range_keep_their_brightness(tmp_path, top, beyond):
    pixels = np.asarray(bar().convert("L"), dtype=np.float32) / 255 * top
    pixels[0, :3] = beyond, np.nan, top / 2
    Image.fromarray(pixels).save(tmp_path / "f.tif")
    image = open_rgb(tmp_path / "f.tif")[0]
    assert [image.getpixel(at)[0] for at in ((79, 39), (12, 12), (0, 0))] == [255, 0, 255]
    assert image.getpixel((2, 0))[0] == pytest.approx(127.5, abs=1)


def grey_profile():
    """A profile of greys with gamma 1, the smallest that the specification allows."""

    def text(words):
        return b"desc" + bytes(4) + struct.pack(">I", len(words) + 1) + words + bytes(79)

    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    tags, offset, content = [], 128 + 4 + 3 * 12, b""
    for name, value in ((b"desc", text(b"linear grey")), (b"wtpt", white), (b"kTRC", curve)):
        value += bytes(-len(value) % 4)
        tags.append(name + struct.pack(">II", offset + len(content), len(value)))
        content += value
    size = offset + len(content)
    header = struct.pack(">I4sI", size, b"lcms", 0x02100000) + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", 3) + b"".join(tags) + content


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_a_profile_of_greys_is_applied_to_every_mode_of_greys(tmp_path, mode):
    values = np.full((8, 8), 55 if mode != "1" else 255, dtype=np.uint8)  # 0.216 of white is 128 in sRGB
    values[0, 0] = 255
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    image.save(tmp_path / "g.tif", icc_profile=grey_profile())
    found, notes = open_rgb(tmp_path / "g.tif")
    assert notes == ["colours converted to sRGB"]
    assert found.getpixel((4, 4))[1] == pytest.approx(128 if mode != "1" else 255, abs=2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_profile_of_colours_is_applied_to_palettes_and_transparency_too(tmp_path, mode):
    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = {name: swapped.index(name, 128) for name in (b"rXYZ", b"bXYZ", b"desc")}
    red, blue = (swapped[place[name] + 4 : place[name] + 12] for name in (b"rXYZ", b"bXYZ"))
    swapped[place[b"rXYZ"] + 4 : place[b"rXYZ"] + 12] = blue
    swapped[place[b"bXYZ"] + 4 : place[b"bXYZ"] + 12] = red
    named = bytes(swapped).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")
    Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode).save(tmp_path / "p.png", icc_profile=named)
    found, notes = open_rgb(tmp_path / "p.png")
    assert notes == ["colours converted to sRGB"] and max(abs(np.subtract(found.getpixel((4, 4)), (0, 0, 255)))) < 8


def test_a_picture_with_too_many_pixels_is_rejected(tmp_path, monkeypatch):
    bar((400, 400)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.raises(Rejected, match="too many pixels: over 0 million"):
        open_rgb(tmp_path / "big.png")


def test_margins_are_trimmed_and_padded_evenly(tmp_path):
    page = Image.new("RGB", (400, 300), "white")
    page.paste("black", (300, 200, 340, 240))
    page.save(tmp_path / "corner.png")
    trimmed = picture(prepared(tmp_path / "corner.png", margin=0.25).png)[:, :, 0]
    ink = np.flatnonzero((trimmed < 128).any(axis=0)), np.flatnonzero((trimmed < 128).any(axis=1))
    assert [(side[0], side[-1]) for side in ink] == [(5, 26), (5, 26)]  # 40 px and a quarter of it on each side
    assert (picture(prepared(tmp_path / "corner.png", trim=False).png)[:, :, 0] < 128).sum() < 20


def test_the_margin_is_a_share_of_the_longer_side(tmp_path):
    page = Image.new("RGB", (400, 300), "white")
    page.paste("black", (100, 100, 180, 120))
    page.save(tmp_path / "wide.png")
    columns = np.flatnonzero((picture(prepared(tmp_path / "wide.png", margin=0.5).png)[:, :, 0] < 128).any(axis=0))
    assert (columns[0], columns[-1]) == (8, 23)  # half of 32 px: 80 px, and half of that on each side


def test_light_on_dark_is_turned_around(tmp_path):
    bar(paper="black", ink="white").save(tmp_path / "dark.png")
    found = prepared(tmp_path / "dark.png")
    assert found.notes[0] == "light on dark: turned around"
    assert picture(found.png)[0, 0].min() > 235 and picture(found.png)[16, 16].max() < 20
    assert picture(prepared(tmp_path / "dark.png", invert=False).png)[0, 0].max() < 20


def white_on_black(image):
    return ImageOps.invert(image)


def one_pixel_frame(image):
    return ImageOps.expand(image.crop((1, 1, image.width - 1, image.height - 1)), 1, "black")


def thick_frame(image):
    return ImageOps.expand(image, round(0.06 * image.width), (20, 20, 30))


def two_dark_edges(image):
    image = ImageOps.expand(image, 20, "white")
    for box in ((0, 0, image.width, 12), (0, 0, 15, image.height)):
        image.paste((25, 20, 20), box)
    return image


def opposite_dark_edges(image):
    image = ImageOps.expand(image, (0, 20), "white")
    for box in ((0, 0, image.width, 12), (0, image.height - 12, image.width, image.height)):
        image.paste("black", box)
    return image


def black_on_dark_grey(image):
    return image.point(lambda level: 10 + level * 85 // 255)


def on_pink(image):
    return ImageChops.multiply(image, Image.new("RGB", image.size, (240, 170, 190)))


def alpha(image):
    image = image.convert("RGBA")
    image.putalpha(ImageOps.invert(image.convert("L")))
    return image


CLEAN = {
    white_on_black: True,
    one_pixel_frame: False,
    thick_frame: False,
    two_dark_edges: False,
    opposite_dark_edges: False,
    black_on_dark_grey: False,
    on_pink: False,
    alpha: False,
}


@pytest.mark.parametrize("kind", [".png", ".jpg"])
@pytest.mark.parametrize("change", CLEAN)
@pytest.mark.parametrize("name", ["anchor", "bat", "axe"])
def test_only_light_ink_on_darker_paper_is_turned_around_and_clean_drawings_are_no_photos(tmp_path, name, change, kind):
    drawing = ImageOps.expand(Image.open(ROOT / f"data/raw/flash/{name}.png").convert("RGB"), 12, "white")
    image = change(drawing)
    path = tmp_path / f"drawing{kind}"
    (image if kind == ".png" or image.mode == "RGB" else ImageOps.grayscale(drawing)).save(path, quality=85)
    found = prepare(path, PARAMS, 64)
    assert ("light on dark: turned around" in found.notes) == CLEAN[change]
    assert found == prepared_at(64, path, flatten="false")
    plain = prepared_at(64, path, invert=False)
    assert (found.png == plain.png) != CLEAN[change]


def prepared_at(resolution, path, **changes):
    return prepare(path, replace(PARAMS, **changes), resolution)


@pytest.mark.parametrize("path", sorted((ROOT / "data/raw/flash").glob("*.png"))[::14], ids=lambda path: path.stem)
def test_the_samples_are_no_photos(path):
    assert not looks_like_photo(open_rgb(path)[0])
    assert prepared(path) == prepared(path, flatten="false")


def test_under_a_frame_or_a_dark_edge_the_background_is_the_paper():
    page = Image.new("RGB", (300, 200), (250, 240, 200))
    page.paste("black", (80, 60, 200, 120))
    for change in (one_pixel_frame, thick_frame, two_dark_edges, opposite_dark_edges):
        assert background(change(page)) in ((250, 240, 200), (255, 255, 255))
    assert background(Image.new("RGB", (1, 1), "navy")) == (0, 0, 128)
    moon = Image.new("RGB", (100, 100), "black")
    ImageDraw.Draw(moon).ellipse((4, 4, 96, 96), fill="white")
    assert background(moon) == (0, 0, 0)


def scan(levels=(236, 230, 214), noise=2.5):
    random = np.random.default_rng(0)
    page = np.full((240, 320, 3), levels) + random.normal(0, noise, (240, 320, 1))
    page = Image.fromarray(page.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(page).ellipse((80, 60, 240, 180), outline=(40, 40, 50), width=4)
    return page


def shadow():
    light = np.linspace(120, 230, 320)[None, :, None] * np.array([1, 0.95, 0.85])
    photo = Image.fromarray(np.broadcast_to(light, (240, 320, 3)).astype(np.uint8))
    ImageDraw.Draw(photo).ellipse((80, 60, 240, 180), outline=(20, 20, 20), width=4)
    return photo


@pytest.mark.parametrize("image", [scan(), scan((90, 90, 84), 4), shadow()], ids=["scan", "dim", "shadow"])
def test_noise_and_shadow_are_a_photos_and_paper_tone_goes_with_them(tmp_path, image):
    image.save(tmp_path / "photo.png")
    found = prepared(tmp_path / "photo.png")
    assert found.notes[0] == "taken as a photo: light evened"
    assert picture(found.png)[0, 0].min() == 255 and picture(found.png).min() < 90
    untouched = prepared(tmp_path / "photo.png", flatten="false")
    assert untouched.notes == [] and picture(untouched.png)[0, 0].min() < 220


def test_always_flattened_is_a_drawing_that_looks_like_no_photo(tmp_path):
    on_pink(bar()).save(tmp_path / "pink.png")
    assert picture(prepared(tmp_path / "pink.png").png)[0, 0].tolist() == [240, 170, 190]
    found = prepared(tmp_path / "pink.png", flatten="true")
    assert picture(found.png)[0, 0].tolist() == [255, 255, 255] and found.notes[0].startswith("taken as a photo")


def test_a_threshold_leaves_black_and_white(tmp_path):
    bar(ink=(150, 40, 40)).save(tmp_path / "red.png")
    trimmed = picture(prepared(tmp_path / "red.png", threshold=128, margin=0.0).png)
    assert trimmed[16, 16].tolist() == [0, 0, 0]


def test_enlarging_beyond_the_factor_is_noted(tmp_path):
    bar((24, 24)).crop((8, 8, 20, 20)).save(tmp_path / "small.png")
    for limit in (2.0, 3.0):
        assert prepared(tmp_path / "small.png", min_size=5, max_upscale=limit).notes == ["enlarged 3.2 times"]
    assert prepared(tmp_path / "small.png", min_size=5, max_upscale=3.5).notes == []


@pytest.mark.parametrize(
    ("size", "width", "fine"), [((3000, 3000), 2, True), ((3000, 150), 4, True), ((600, 600), 6, False)]
)
def test_lines_too_fine_for_the_resolution_are_noted(tmp_path, size, width, fine):
    image = Image.new("RGB", size, "white")
    for x in range(20, size[0] - 60, 120):
        ImageDraw.Draw(image).ellipse((x, 20, x + 110, size[1] - 20), outline="black", width=width)
    image.save(tmp_path / "fine.png")
    notes = prepare(tmp_path / "fine.png", PARAMS, 64).notes
    assert bool(notes) == fine
    assert not fine or notes[0].startswith("too fine for 64 px: ") and notes[0].endswith("of the ink is hardly seen")


def test_a_small_drawing_is_rejected(tmp_path):
    bar().save(tmp_path / "small.png")
    with pytest.raises(Rejected, match="too small: 40 x 10 px are drawn, min_size is 41"):
        prepared(tmp_path / "small.png", min_size=41)
    assert prepared(tmp_path / "small.png", min_size=40)


def test_a_drawing_and_its_mirror_image_have_each_others_hashes(tmp_path):
    image = Image.open(ROOT / "data/raw/flash/scorpion.png").convert("RGB")
    image.save(tmp_path / "a.png")
    ImageOps.mirror(image).save(tmp_path / "b.png")
    one, other = prepared(tmp_path / "a.png"), prepared(tmp_path / "b.png")
    bits = [
        bin(int(a, 16) ^ int(b, 16)).count("1")
        for a, b in ((one.hash, other.mirrored_hash), (one.mirrored_hash, other.hash))
    ]
    assert max(bits) <= 8  # rounding
    assert one.hash != one.mirrored_hash
