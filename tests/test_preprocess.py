"""A folder of drawings in, images, captions and tables out: what is kept, what is not, and what is done again."""

import csv
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT, copy_project, run, set_value
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_photos import photo
from PIL import Image, ImageDraw, ImageOps

from stages.preprocess import __main__ as preprocess_main
from stages.preprocess.__main__ import draw_sheet, preprocess
from stages.preprocess.duplicates import Ink, distances, find_places, group, near_pairs, same_pairs, to_words
from stages.preprocess.files import RawFile, output_stem
from stages.preprocess.prepare import Candidate, Outcome
from stages.preprocess.raw_images import to_png
from tattoo_lora.data.captions import read_user_captions
from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.data.manifest import read_manifest
from tattoo_lora.data.split import fewest_held_out, file_sha256, held_out, is_held_out, split_contents
from tattoo_lora.errors import UserError
from tattoo_lora.memo import Memo
from tattoo_lora.params import load_params

PARAMS = replace(
    load_params(ROOT).preprocess, val_share=0.25, test_share=0.25, vanilla_caption="line art", max_rejected=1.0
)


def drawing(seed, size=(120, 90)):
    """A scribble of its own: lines between points that the seed draws."""
    image = Image.new("RGB", size, "white")
    points = np.random.default_rng(seed).integers(5, np.array(size) - 5, (9, 2))
    ImageDraw.Draw(image).line([tuple(map(int, point)) for point in points], "black", 3)
    return image


def save(path, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing(seed).save(path, **options)
    return path


def run_preprocess(raw, out, processes=1, resolution=32, **changes):
    return preprocess(raw, out, out.with_name("sheet.png"), replace(PARAMS, **changes), resolution, processes)


def by_source(rows):
    return {row.source: row for row in rows}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A memo of its own for each test."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def raw(tmp_path):
    for i in range(8):
        save(tmp_path / "raw" / f"d{i}.png", seed=i)
    return tmp_path / "raw"


def test_every_drawing_becomes_a_square_rgb_png_with_a_caption_and_a_row(raw, tmp_path):
    rows, _ = run_preprocess(raw, tmp_path / "out")
    assert [row.file for row in rows] == [f"d{i}.png" for i in range(8)]
    for row in rows:
        with Image.open(tmp_path / "out/images" / row.file) as image:
            assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "PNG")
        assert (tmp_path / "out/captions_vanilla" / f"{Path(row.file).stem}.txt").read_text() == "line art\n"
        assert (row.status, row.width, row.height) == ("kept", 120, 90)
        assert row.sha256 == file_sha256(raw / row.source)
    assert read_manifest(tmp_path / "out/manifest.csv") == rows
    kept = read_drawings(tmp_path / "out/drawings.csv")
    assert [(d.file, d.sha256, d.split) for d in kept] == [(r.file, r.sha256, r.split) for r in rows]


def hostile_folder(raw):
    """Every kind of odd file, each with what its row must say: status, and a part of its reason or note."""
    raw.mkdir()
    expected, seed = {}, iter(range(10_000, 20_000))

    def file(name, status, says="", content=None, image=None, **options):
        path = raw / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
        else:
            (drawing(next(seed)) if image is None else image).save(path, **options)
        expected[os.fsencode(name).decode("utf-8", "backslashreplace")] = (status, says)
        return path

    def encoded(image, kind):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        return buffer.getvalue()

    for kind in ("png", "jpg", "webp", "tiff", "bmp", "gif", "ppm", "tga", "ico", "jp2", "pcx", "avif"):
        file(f"format_{kind}.{kind}", "kept")
    for mode in ("1", "L", "P", "LA"):
        file(f"mode_{mode.lower()}.png", "kept", image=drawing(next(seed)).convert("L").convert(mode))
    file("mode_rgba.png", "kept", image=drawing(next(seed)).convert("RGBA"))
    file("cmyk.tif", "kept", image=drawing(next(seed)).convert("CMYK"))
    file("cmyk.jpg", "kept", image=drawing(next(seed)).convert("CMYK"))
    deep = np.asarray(drawing(next(seed)).convert("L")).astype(np.uint16) * 257
    file("sixteen bit.png", "kept", image=Image.fromarray(deep))
    file("float.tif", "kept", image=drawing(next(seed)).convert("F"))
    exif = Image.Exif()
    exif[0x0112] = 8
    file("rotated.jpg", "kept", "turned as its EXIF says", exif=exif)
    file("moving.gif", "kept", "first of 2 frames", save_all=True, append_images=[drawing(next(seed))])
    file("moving.webp", "kept", "first of 2 frames", save_all=True, append_images=[drawing(next(seed))])
    file("night.png", "kept", "light on dark", image=ImageOps.invert(drawing(next(seed))))
    white = Image.new("RGBA", (120, 90), (255, 255, 255, 0))
    white.putalpha(ImageOps.invert(drawing(next(seed)).convert("L")))
    file("white ink.png", "kept", "white on transparent", image=white)
    file("bad profile.png", "kept", "colour profile unreadable", icc_profile=b"nothing")
    file("bad exif.jpg", "kept", exif=b"Exif\0\0broken")
    file("tiny.png", "rejected", "too small", image=drawing(next(seed), (20, 18)))
    file("enlarged.png", "kept", image=drawing(next(seed), (60, 60)))
    file("narrow.png", "kept", image=drawing(next(seed), (300, 12)))
    # Names.
    file("schöne Möwe 龍.png", "kept")
    file("ネコ/ネコ.png", "kept")
    file("two  blanks .png", "kept")
    file('quote"comma,semi;.png', "kept")
    file("new\nline.png", "kept")
    file("-rf.png", "kept")
    file("..png", "ignored", "hidden", content=encoded(drawing(next(seed)), "PNG"))
    file("no ending", "kept", content=encoded(drawing(next(seed)), "PNG"))
    file("really a jpeg.png", "kept", content=encoded(drawing(next(seed)), "JPEG"))
    file("upper.PNG", "kept")
    file("Case.png", "kept")
    file("case.png", "kept")
    file("stem.png", "kept")
    file("stem.jpg", "kept")
    file("folder/stem.png", "kept")
    file("folder/deeper/stem.png", "kept")
    file("e\u0301.png", "kept")
    file("\u00e9.png", "kept")
    file("x" * 200 + ".png", "kept")
    file(b"latin-\xe9.png", "kept")
    # Broken.
    whole = encoded(drawing(next(seed)), "PNG")
    file("empty.png", "rejected", "empty file", content=b"")
    file("truncated.png", "rejected", "unreadable", content=whole[: len(whole) // 2])
    file("truncated.jpg", "rejected", "unreadable", content=encoded(drawing(next(seed)), "JPEG")[:700])
    file("flipped.png", "rejected", "unreadable", content=whole[:60] + b"\xff\xff\xff\xff" + whole[64:])
    file("text.png", "rejected", "no picture in a format", content=b"no picture at all")
    file("zeros.jpg", "rejected", "no picture in a format", content=bytes(5000))
    file(
        "page.svg",
        "rejected",
        "SVG is not read: export it as PNG",
        content=b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    )
    file("page.eps", "rejected", "PostScript is not read")
    file("page.pdf", "rejected", "PDF is not read")
    file("archive.zip", "rejected", "no picture in a format", content=b"PK\x03\x04" + bytes(100))
    huge = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    file("bomb.png", "rejected", "too many pixels: over 179 million", content=huge)
    file("white.png", "rejected", "empty: nothing is drawn on it", image=Image.new("RGB", (90, 90), "white"))
    file("clear.png", "rejected", "empty: nothing is drawn on it", image=Image.new("RGBA", (90, 90)))
    # Duplicates.
    first = file("an original.png", "kept", image=drawing(10_957, (240, 180)))
    file("copy of original.png", "duplicate", "same file as an original.png", content=first.read_bytes())
    file("converted.bmp", "duplicate", "same picture as an original.png", image=Image.open(first))
    file("mirrored.png", "duplicate", "bits differ) an original.png", image=ImageOps.mirror(Image.open(first)))
    file("smaller.jpg", "duplicate", "bits differ) an original.png", image=Image.open(first).resize((200, 150)))
    # Beside the drawings.
    file("stem.txt", "caption", content=b"an anchor\r\n\r\n an  old\tanchor")
    file("case.txt", "rejected", "caption refused: not UTF-8", content=b"\xff\xfe\x00")
    file("narrow.txt", "rejected", "caption refused: longer than 2000 bytes", content=b"a" * 5000)
    file("upper.txt", "rejected", "caption refused: not a text", content=b"a\x00b")
    file("night.txt", "rejected", "caption refused: empty", content=b" \n")
    file("notes.txt", "ignored", "a text, and no drawing of its name", content=b"x")
    file("LICENSE.md", "ignored", "no picture by its ending", content=b"x")
    file(".DS_Store", "ignored", "hidden", content=b"x")
    # Links and what is no file.
    outside = raw.parent / "outside"
    save(outside / "secret.png", seed=next(seed))
    for name, target, row in (
        ("out.png", outside / "secret.png", ("rejected", "a link out of the folder")),
        ("out", outside, ("rejected", "a link out of the folder")),
        ("nowhere.png", raw / "missing.png", ("rejected", "no regular file")),
        ("loop", raw, ("rejected", "a link to a folder")),
        ("link.png", raw / "case.png", ("duplicate", "same file as")),
    ):
        (raw / name).symlink_to(target)
        expected[name] = row
    os.mkfifo(raw / "pipe.png")
    expected["pipe.png"] = ("rejected", "no regular file")
    return expected


def check_hostile(rows, out, expected):
    found = by_source(rows)
    assert found.keys() == expected.keys()
    wrong = {
        source: (found[source].status, found[source].reason, found[source].note)
        for source, (status, says) in expected.items()
        if found[source].status != status or says not in found[source].reason + found[source].note
    }
    assert not wrong
    kept = {row.file for row in rows if row.status == "kept"}
    assert len({name.casefold() for name in kept}) == sum(status == "kept" for status, _ in expected.values())
    assert {path.name for path in (out / "images").iterdir()} == kept


def test_of_a_hostile_folder_every_file_has_the_right_row(tmp_path):
    expected = hostile_folder(tmp_path / "raw")
    assert len(expected) >= 60
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "raw").rglob("*")}
    rows, facts = run_preprocess(tmp_path / "raw", tmp_path / "out", processes=2)
    check_hostile(rows, tmp_path / "out", expected)
    assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "raw").rglob("*")} == before
    assert read_user_captions(tmp_path / "out/captions_user.csv") == {
        by_source(rows)[source].file: ["an anchor", "an old anchor"] for source in ("stem.png", "stem.jpg")
    }
    draw_sheet(tmp_path / "sheet.png", tmp_path / "raw", rows, facts)
    assert Image.open(tmp_path / "sheet.png").height > 1500


def is_running(pid):
    """Whether the process does anything: ended ones may wait for whoever started them to ask."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"


def test_killed_in_the_middle_a_rerun_goes_on_and_ends_alike(tmp_path):
    project = tmp_path / "project"
    expected = hostile_folder(tmp_path / "raw")
    for i in range(150):
        save(tmp_path / "raw" / f"more{i}.png", seed=i)
        expected[f"more{i}.png"] = ("kept", "")
    project.mkdir()
    for name in ("params.yaml", "profiles/embedded.yaml"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    set_value(project / "params.yaml", "max_rejected", 1.0)
    command = [sys.executable, "-m", "stages.preprocess", str(tmp_path / "raw"), "--out", "out", "--sheet", "s.png"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE)
    memo = project / ".scratch/memo/preprocess"
    while len(list(memo.rglob("*.json"))) < 40:
        assert running.poll() is None
        time.sleep(0.01)
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="utf-8").split()
    running.send_signal(signal.SIGKILL)
    running.wait()
    again = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    decoded = int(again.stdout.split(" files decoded")[0].split()[-1])
    assert 0 < decoded < len(expected) - 40 and not (project / "out/images/bomb.png").exists()
    check_hostile(read_manifest(project / "out/manifest.csv"), project / "out", expected)
    assert workers and not any(map(is_running, workers))  # they ended with their parent


def test_a_killed_process_names_the_files_that_were_being_read(raw, tmp_path, monkeypatch):
    def prepare_or_be_killed(task):
        if task.path.name == "d5.png":
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out
        return prepare_once(task)

    prepare_once = preprocess_main.prepare_once
    with monkeypatch.context() as patch:
        patch.setattr(preprocess_main, "prepare_once", prepare_or_be_killed)
        with pytest.raises(UserError, match="because memory ran out, while these were being read: .*d5.png") as error:
            run_preprocess(raw, tmp_path / "out", processes=2)
    assert str(error.value).count(".png") <= 2  # one a process
    assert not (tmp_path / "out").exists()
    _, facts = run_preprocess(raw, tmp_path / "out", processes=2)
    assert not facts["d0.png"].is_new and facts["d5.png"].is_new  # it goes on


def bytes_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_only_what_is_new_is_decoded_and_the_result_is_that_of_a_clean_run(raw, tmp_path, monkeypatch):
    def decoded(out):
        _, facts = run_preprocess(raw, tmp_path / out)
        return sum(fact.is_new for fact in facts.values())

    assert decoded("out") == 8
    assert decoded("out") == 0
    save(raw / "new.png", seed=70)
    assert decoded("out") == 1
    (raw / "d0.png").rename(raw / "Renamed.png")
    assert decoded("out") == 0
    (raw / "d1.png").unlink()
    save(raw / "d2.png", seed=71)
    assert decoded("out") == 1
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert decoded("clean") == 8
    assert bytes_below(tmp_path / "clean") == bytes_below(tmp_path / "out")


@pytest.mark.parametrize("suffix", [".json", ".png", ".thumbnail.png"])
def test_what_the_memo_lost_is_made_again(raw, tmp_path, suffix):
    rows, facts = run_preprocess(raw, tmp_path / "out")
    before = bytes_below(tmp_path / "out")
    next(
        path for path in (tmp_path / ".scratch").rglob(f"*{suffix}") if path.name.count(".") == suffix.count(".")
    ).unlink()
    rows, facts = run_preprocess(raw, tmp_path / "out")
    assert bytes_below(tmp_path / "out") == before
    draw_sheet(tmp_path / "sheet.png", raw, rows, facts)


@pytest.mark.parametrize(
    "change",
    [
        {"fit": "crop"},
        {"trim": False},
        {"margin": 0.3},
        {"threshold": 99},
        {"flatten": "false"},
        {"invert": False},
        {"min_size": 5},
        {"max_upscale": 9.0},
        {"resolution": 48},
    ],
)
def test_another_param_decodes_anew_and_back_again_nothing(raw, tmp_path, change):
    run_preprocess(raw, tmp_path / "out")
    assert all(fact.is_new for fact in run_preprocess(raw, tmp_path / "out", **change)[1].values())
    assert not any(fact.is_new for fact in run_preprocess(raw, tmp_path / "out")[1].values())


def test_one_process_and_two_give_the_same_bytes(raw, tmp_path, monkeypatch):
    run_preprocess(raw, tmp_path / "one")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run_preprocess(raw, tmp_path / "two", processes=2)
    assert bytes_below(tmp_path / "one") == bytes_below(tmp_path / "two")


def test_a_plain_name_stays_and_all_others_end_in_a_hash():
    assert output_stem("owl.png") == "owl"
    assert output_stem("birds/Große Eule.JPG").startswith("grosse-eule-")
    assert output_stem("owl-0123abcd.png") != "owl-0123abcd"  # it could be another's
    assert output_stem("nul.png").startswith("nul-") and output_stem("com1.png").startswith("com1-")  # Windows' devices
    assert output_stem("console.png") == "console"
    assert output_stem("..png").startswith("drawing-") or output_stem("..png")


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
sources = st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), unique=True, max_size=30)


@given(sources)
def test_names_are_injective_and_fit_any_file_system(sources):
    stems = [output_stem(source) for source in sources]
    assert len({stem.casefold() for stem in stems}) == len(stems)
    assert all(len(stem.encode()) < 200 and not set('<>:"/\\|?*\0\n') & set(stem) for stem in stems)
    assert not any(stem.endswith((".", " ")) or PureWindowsPath(stem).is_reserved() for stem in stems)


@given(st.sets(st.text("0123456789abcdef", min_size=64, max_size=64)), st.floats(0.01, 0.9))
def test_the_split_of_a_drawing_depends_on_no_other(contents, share):
    before = {sha256: is_held_out(sha256, share) for sha256 in contents}
    fewer = list(contents)[::2]
    assert {sha256: is_held_out(sha256, share) for sha256 in fewer} == {sha256: before[sha256] for sha256 in fewer}


hashes = st.lists(st.integers(0, 2**64 - 1).map(lambda n: f"{n:064x}"), max_size=20)


@settings(deadline=None)
@given(hashes, st.integers(0, 40))
def test_groups_are_transitive_and_complete(hashes, distance):
    pairs = [*near_pairs(hashes, hashes, distance), *same_pairs(hashes)]
    groups = group(len(hashes), pairs)
    number = {position: k for k, positions in enumerate(groups) for position in positions}
    assert len(number) == sum(map(len, groups))  # a drawing is in one group only
    words = to_words(hashes) if hashes else np.zeros((0, 4), np.uint64)
    near = distances(words, words, words) <= distance
    for i in range(len(hashes)):
        for j in range(i):
            assert not near[i, j] or number[i] == number[j]


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=10), st.sampled_from(["drop", "keep"]))
def test_a_group_never_straddles_the_split(tmp_path_factory, seeds, duplicates):
    raw = tmp_path_factory.mktemp("raw")
    for i, seed in enumerate(seeds):
        drawing(seed, (240, 180)).resize((240 - 40 * (i % 3), 180 - 30 * (i % 3)), 3).save(raw / f"{i}.png")
    for i in range(8):  # so that both sides have one
        save(raw / f"other{i}.png", seed=100 + i)
    try:
        rows, _ = run_preprocess(raw, raw / "../out", duplicates=duplicates)
    except UserError:
        return
    groups = {row.group for row in rows if row.group}
    for members in ([row for row in rows if row.group == name] for name in groups):
        assert len({row.split for row in members}) == 1
        assert sum(row.status == "kept" for row in members) == (1 if duplicates == "drop" else len(members))
    same = [row for row in rows if row.source[0].isdigit()]
    for one in same:
        for other in same:
            if one.sha256 == other.sha256:
                assert one is other or one.group == other.group != ""


def test_of_duplicates_the_largest_is_kept_and_one_with_a_caption_before_it(raw, tmp_path):
    drawing(3).resize((600, 450), Image.Resampling.LANCZOS).save(raw / "d3 large.png")
    rows = by_source(run_preprocess(raw, tmp_path / "out")[0])
    assert (rows["d3.png"].status, rows["d3 large.png"].status) == ("duplicate", "kept")
    (raw / "d3.txt").write_text("mine")
    rows = by_source(run_preprocess(raw, tmp_path / "out")[0])
    assert (rows["d3.png"].status, rows["d3 large.png"].status) == ("kept", "duplicate")


@pytest.mark.parametrize(
    "copy",
    ["anchor copy", "anchor copy 2", "anchor (1)", "anchor - Kopie", "anchor 2", "Copy of anchor", "anchor – копия"],
)
def test_of_equally_large_duplicates_the_one_is_kept_whose_name_has_nothing_added(raw, tmp_path, copy):
    (raw / "z").mkdir()
    for name in ("z/anchor", copy):
        drawing(80).save(raw / f"{name}.png")
    rows = by_source(run_preprocess(raw, tmp_path / "out")[0])
    assert (rows["z/anchor.png"].status, rows[f"{copy}.png"].status) == ("kept", "duplicate")
    assert rows[f"{copy}.png"].reason == "same file as z/anchor.png"


def shape(name):
    image, box = Image.new("RGB", (400, 400), "white"), (40, 40, 360, 360)
    draw = ImageDraw.Draw(image)
    {
        "filled square": lambda: draw.rectangle(box, fill="black"),
        "square": lambda: draw.rectangle(box, outline="black", width=8),
        "rounded square": lambda: draw.rounded_rectangle(box, 60, outline="black", width=8),
        "circle": lambda: draw.ellipse(box, outline="black", width=8),
        "double ring": lambda: [draw.ellipse((a, a, 400 - a, 400 - a), outline="black", width=8) for a in (40, 80)],
        "disc": lambda: draw.ellipse(box, fill="black"),
    }[name]()
    return image


def framed(path):
    """The drawing at a quarter of the width of a page with a frame, as cards have it."""
    page = Image.new("RGB", (600, 800), "white")
    ImageDraw.Draw(page).rectangle((20, 20, 579, 779), outline="black", width=8)
    page.paste(Image.open(path).convert("RGB").resize((150, 150), Image.Resampling.LANCZOS), (225, 325))
    return page


MOTIFS = "anchor bat bear bell bicycle bomb bug butterfly cactus camel castle crab crown diamond dragon key".split()


def test_shapes_that_share_an_outline_and_motifs_in_one_frame_are_no_duplicates(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("filled square", "square", "rounded square", "circle", "double ring", "disc"):
        shape(name).save(tmp_path / f"raw/{name}.png")
    found = [path for path in sorted((ROOT / "data/raw/flash").glob("*.png")) if path.stem in MOTIFS]
    for path in found:
        framed(path).save(tmp_path / "raw" / path.name)
    rows, facts = run_preprocess(tmp_path / "raw", tmp_path / "out", resolution=64)
    hashes = [[getattr(fact, key) for fact in facts.values()] for key in ("hash", "mirrored_hash")]
    assert len(list(near_pairs(*hashes, PARAMS.duplicate_distance))) > 5  # the hashes alone would drop them
    assert [row.reason for row in rows if row.status != "kept"] == []


@pytest.mark.parametrize("kind", ["smaller", "jpeg", "mirrored", "saved anew", "noise", "framed", "grey"])
def test_true_copies_are_duplicates(tmp_path, kind):
    sources = [ROOT / f"data/raw/flash/{name}.png" for name in ("anchor", "bat", "camel", "dragon", "key", "owl")]
    for path in sources:
        image = framed(path) if kind == "framed" else Image.open(path).convert("RGB")
        smaller = image.resize([side * 6 // 10 for side in image.size], Image.Resampling.LANCZOS)
        noise = np.random.default_rng(0).normal(0, 3, (image.height, image.width, 1))
        copy, options = {
            "smaller": (smaller, {}),
            "jpeg": (image, {"quality": 75}),
            "mirrored": (ImageOps.mirror(image), {}),
            "saved anew": (image, {}),
            "noise": (Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)), {}),
            "framed": (ImageOps.mirror(smaller), {"quality": 75}),
            "grey": (image.convert("L"), {}),
        }[kind]
        (tmp_path / "raw").mkdir(exist_ok=True)
        image.save(tmp_path / f"raw/{path.name}")
        copy.save(tmp_path / f"raw/{path.stem} copy.{'jpg' if options else 'tif'}", **options)
    rows, _ = run_preprocess(tmp_path / "raw", tmp_path / "out", resolution=64)
    assert [row.status for row in rows].count("duplicate") == 6
    assert all(row.source.split()[0].split(".")[0] in row.reason for row in rows if row.status == "duplicate")


def test_what_is_no_copy_of_the_kept_one_is_kept_though_a_third_is_like_both(tmp_path):
    names, bits = ("a.png", "b.png", "c.png"), (0, 20, 40)
    hashes = [f"{(1 << n) - 1:064x}" for n in bits]
    drawings = []
    for i, (name, bits) in enumerate(zip(names, hashes, strict=True)):
        sha256 = f"{i}" * 64
        outcome = Outcome(sha256, sha256, True, "", sha256, 9 - i, 9, hash=bits, mirrored_hash=bits)
        drawings.append(Candidate(RawFile(Path(name), name), outcome))
        Memo("preprocess").write(outcome.key, ".ink.png", to_png(Image.new("L", (192, 192), 2)))
    places = find_places(drawings, replace(PARAMS, duplicate_distance=30))
    assert [place.reason for place in places] == ["", "looks like (20 of 256 bits differ) a.png", ""]
    assert {(place.decides, place.group) for place in places} == {("0" * 64, "0" * 8)}  # on one side of the split


def test_texts_and_rights_that_belong_to_no_drawing_are_said(raw, tmp_path, capsys):
    (raw / "d1.txt").write_text("an anchor")
    (raw / "d11.txt").write_text("a typing error")
    (raw / "rights.csv").write_text("file,license\nd1.png,CC0\nd1.pgn,CC0\nD2.png,CC0\n*,CC0\n")
    rows = by_source(run_preprocess(raw, tmp_path / "out")[0])
    assert (rows["d11.txt"].status, rows["d11.txt"].reason) == ("ignored", "a text, and no drawing of its name")
    note = "rows that name no file of the folder: 2, the first: d1.pgn"
    assert rows["rights.csv"].note == note
    lines = capsys.readouterr().err
    assert "captions whose names match no drawing: 1, the first: d11.txt" in lines and f"rights.csv: {note}" in lines


def test_no_two_sample_drawings_are_taken_for_duplicates(finished):
    rows = read_manifest(finished / "data/processed/flash/manifest.csv")
    assert sum(row.status == "kept" for row in rows) == 12
    assert {row.license for row in rows if row.status == "kept"} == {"CC BY-SA 4.0"}


def test_adding_a_drawing_moves_no_other(raw, tmp_path):
    before = {row.file: row.split for row in run_preprocess(raw, tmp_path / "a")[0]}
    save(raw / "aaa.png", seed=50)
    after = {row.file: row.split for row in run_preprocess(raw, tmp_path / "b")[0]}
    assert {file: after[file] for file in before} == before


def test_a_name_decides_nothing_about_the_split(raw, tmp_path):
    before = {row.sha256: row.split for row in run_preprocess(raw, tmp_path / "a")[0]}
    for path in list(raw.iterdir()):
        path.rename(path.with_stem(f"renamed {path.stem}"))
    assert {row.sha256: row.split for row in run_preprocess(raw, tmp_path / "b")[0]} == before
    assert set(before.values()) == {"train", "val", "test"}


def test_the_held_out_share_is_about_the_one_asked_for():
    contents = [f"{i:064x}" for i in range(0, 16**16, 16**16 // 1000)]
    assert [is_held_out(c[-16:] + c[:-16], 0.25) for c in contents].count(True) == pytest.approx(250, abs=2)


def test_a_drawing_linked_from_a_dvc_cache_is_read(raw, tmp_path):
    cached = tmp_path / ".dvc/cache/files/md5/ab/cdef0123"
    save(tmp_path / "linked.png", seed=60)
    cached.parent.mkdir(parents=True)
    (tmp_path / "linked.png").rename(cached)
    (raw / "linked.png").symlink_to(cached)
    assert by_source(run_preprocess(raw, tmp_path / "out")[0])["linked.png"].status == "kept"


def test_captions_may_lie_in_caption_files_too_and_texts_win(raw, tmp_path):
    for name, text in (("d1.caption", "an owl"), ("d2.caption", "a wolf"), ("d2.txt", "a fox"), ("none.caption", "x")):
        (raw / name).write_text(text)
    rows = by_source(run_preprocess(raw, tmp_path / "out")[0])
    assert (tmp_path / "out/captions_user.csv").read_text() == "file,caption\nd1.png,an owl\nd2.png,a fox\n"
    assert [rows[name].status for name in ("d1.caption", "d2.txt", "d2.caption", "none.caption")] == [
        "caption",
        "caption",
        "ignored",
        "ignored",
    ]
    assert rows["d2.caption"].reason == "the .txt beside it counts"
    assert rows["none.caption"].reason == "a text, and no drawing of its name"


def test_rights_go_into_the_manifest_and_may_be_required(raw, tmp_path):
    (raw / "rights.csv").write_text(
        "file,license,author\nd1.png,CC0,Ada\nd2.png,,\n*,CC BY 4.0,\n", encoding="utf-8-sig", newline="\r\n"
    )
    (raw / "d1.txt").write_text("an owl\non a branch\n", newline="\r\n")  # as an editor on Windows writes both
    rows = by_source(run_preprocess(raw, tmp_path / "out")[0])
    assert (rows["d1.png"].license, rows["d1.png"].author, rows["d3.png"].license) == ("CC0", "Ada", "CC BY 4.0")
    assert rows["rights.csv"].reason == "the drawings' rights"
    assert (tmp_path / "out/captions_user.csv").read_bytes() == b"file,caption\nd1.png,an owl\nd1.png,on a branch\n"
    rows = by_source(run_preprocess(raw, tmp_path / "out", require_license=True)[0])
    assert (rows["d2.png"].status, rows["d2.png"].reason) == ("rejected", "no license in rights.csv")
    assert sum(row.status == "kept" for row in rows.values()) == 7


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name,license\na,b\n", "columns found: name, license; needed: file, license"),
        (b"\xff\xfe,", "no CSV in UTF-8"),
    ],
)
def test_a_table_of_rights_that_cannot_be_read_is_an_error(raw, tmp_path, content, says):
    (raw / "rights.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"rights.csv: {says}"):
        run_preprocess(raw, tmp_path / "out")


def test_rejected_files_are_named_on_the_screen_but_not_all_of_many(raw, tmp_path, capsys):
    for i in range(12):
        (raw / f"broken{i:02d}.png").write_bytes(b"x")
    run_preprocess(raw, tmp_path / "out")
    lines = capsys.readouterr().err
    assert "left out: broken00.png: no picture in a format that is read" in lines
    assert "and 2 more, see manifest.csv" in lines and "broken11" not in lines


def test_too_many_rejected_files_are_an_error_and_the_manifest_says_which(raw, tmp_path):
    for i in range(3):
        (raw / f"broken{i}.png").write_bytes(b"x")
    says = r"3 of 11 files rejected, more than preprocess.max_rejected \(0.2\); the first: broken0.png: no picture"
    with pytest.raises(UserError, match=says):
        run_preprocess(raw, tmp_path / "out", max_rejected=0.2)
    with (tmp_path / "out/manifest.csv").open(encoding="utf-8") as table:
        assert sum(row["status"] == "rejected" for row in csv.DictReader(table)) == 3
    assert Image.open(tmp_path / "sheet.png").height > 300


def test_after_a_run_that_failed_dvc_leaves_the_sheet_and_the_manifest_that_say_why(project, tmp_path):
    copy = copy_project(project, tmp_path / "copy")
    run("dvc", "repro", "preprocess", cwd=copy)
    before = (copy / "plots/drawings.png").read_bytes()
    for i in range(9):
        (copy / f"data/raw/flash/broken{i}.png").write_bytes(b"x")
    result = run("dvc", "repro", "preprocess", cwd=copy, check=False)
    assert result.returncode != 0 and "9 of 21 files rejected" in result.stderr
    assert (copy / "plots/drawings.png").read_bytes() != before
    assert sum(row.status == "rejected" for row in read_manifest(copy / "data/processed/flash/manifest.csv")) == 9


def test_how_many_files_look_like_photos_is_said_and_each_row_says_what_was_done(raw, tmp_path, capsys):
    run_preprocess(raw, tmp_path / "out")
    assert "photo" not in capsys.readouterr().err
    for i, says in enumerate(("1 file looks like a photo\n", "2 files look like photos\n")):
        photo(i, [drawing(80 + i)]).save(raw / f"photo{i}.jpg")
        rows, _ = run_preprocess(raw, tmp_path / "out")
        assert says in capsys.readouterr().err
    notes = {row.source: row.note for row in rows}
    assert "taken as a photo: sheet straightened, light evened" in notes["photo1.jpg"] and notes["d1.png"] == ""


def test_as_many_rejected_files_as_are_allowed_are_no_error(raw, tmp_path):
    for i in range(2):
        (raw / f"broken{i}.png").write_bytes(b"x")
    run_preprocess(raw, tmp_path / "out", max_rejected=0.2)  # 2 of 10
    (raw / "broken2.png").write_bytes(b"x")
    with pytest.raises(UserError, match="3 of 11 files rejected"):
        run_preprocess(raw, tmp_path / "out", max_rejected=0.27)


def test_no_drawings_is_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/notes.txt").write_text("x")
    with pytest.raises(UserError, match="no drawings; put image files"):
        run_preprocess(tmp_path / "raw", tmp_path / "out")


def test_one_drawing_is_an_error(tmp_path):
    save(tmp_path / "raw/one.png")
    with pytest.raises(UserError, match="1 usable drawing.* of 1; three are needed"):
        run_preprocess(tmp_path / "raw", tmp_path / "out")


def test_drawings_that_all_show_one_picture_are_an_error(tmp_path):
    for i in range(3):
        save(tmp_path / f"raw/{i}.png", seed=5, compress_level=i)
    with pytest.raises(UserError, match=r"3 drawings show 1 different picture\(s\); three are needed"):
        run_preprocess(tmp_path / "raw", tmp_path / "out", duplicates="keep")


@pytest.mark.parametrize(("share", "count"), [(0.01, 2), (0.45, 7)])
def test_all_parts_of_the_split_have_drawings(raw, tmp_path, share, count):
    rows, _ = run_preprocess(raw, tmp_path / "out", val_share=share, test_share=share)
    splits = [row.split for row in rows]
    assert splits.count("val") + splits.count("test") in (count, 6)  # of 8
    assert set(splits) == {"train", "val", "test"}


CONTENTS = st.sets(st.text("0123456789abcdef", min_size=64, max_size=64), min_size=3, max_size=40)


@given(CONTENTS, st.floats(0.01, 0.45), st.floats(0.01, 0.45))
def test_train_val_and_test_are_disjoint_and_stay_put_when_a_drawing_is_added_or_removed(contents, val, test):
    new, *before = contents
    if len(before) < 3:
        return
    splits, after = split_contents(before, val, test), split_contents(contents, val, test)
    assert set(splits) == set(before) and set(splits.values()) == {"train", "val", "test"}  # each is in one of them
    assert {content for content, split in splits.items() if split != "train"} == held_out(before, val + test)
    moved = [content for content in before if splits[content] != after[content]]
    assert len(moved) <= 2  # one over each line, while the lowest hashes fill up
    tests, held = (sum(is_held_out(content, share) for content in before) for share in (test, val + test))
    if tests >= 2 and held >= max(tests + 1, 3) and held < len(before):
        assert not moved
        assert all((split == "test") == is_held_out(content, test) for content, split in splits.items())


@pytest.mark.parametrize(
    ("count", "val", "test"), [(3, 1, 1), (8, 1, 1), (11, 1, 1), (12, 1, 2), (25, 1, 2), (2000, 1, 2)]
)
def test_of_few_drawings_one_is_val_and_one_or_two_are_test(count, val, test):
    contents = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)]
    splits = list(split_contents(contents, 1e-9, 1e-9).values())
    assert (splits.count("val"), splits.count("test")) == (val, test)


@given(CONTENTS, st.floats(0.01, 0.9))
def test_few_drawings_are_held_out_by_the_lowest_hashes_and_one_more_moves_at_most_one(contents, share):
    new, *before = contents
    if len(before) < 3:
        return
    val, after = held_out(before, share), held_out(contents, share)
    by_content = {content for content in before if is_held_out(content, share)}
    fewest = fewest_held_out(len(before))
    assert fewest <= len(val) < len(before) or len(val) == len(before) - 1
    assert max(val) < min(set(before) - val)  # the lowest
    if fewest <= len(by_content) < len(before):
        assert val == by_content
    moved = (val ^ after) - {new}
    assert len(moved) <= 1
    if fewest_held_out(len(contents)) <= len(by_content) < len(before):
        assert not moved


@pytest.mark.parametrize(("count", "fewest"), [(2, 1), (3, 2), (8, 2), (11, 2), (12, 3), (25, 3), (2000, 3)])
def test_of_few_drawings_enough_are_held_out_to_judge_by(count, fewest):
    contents = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)]
    assert min(fewest_held_out(count), count - 1) == fewest == len(held_out(contents, 1e-9))


def test_the_sample_holds_out_what_its_drawings_contents_say():
    contents = [file_sha256(path) for path in sorted((ROOT / "data/raw/flash").glob("*.png"))]
    params = load_params(ROOT).preprocess
    splits = split_contents(contents, params.val_share, params.test_share)
    assert all((splits[content] == "test") == is_held_out(content, params.test_share) for content in contents)
    assert all((splits[content] == "train") != is_held_out(content, 0.12) for content in contents)
    assert Counter(splits.values()) == {"train": 296, "test": 24, "val": 10}


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    result = run("python", "-m", "stages.preprocess", "data/raw/x", "--out", "y", "--sheet", "z", cwd=ROOT, check=False)
    assert result.returncode == 1
    assert "data/raw/x: no such folder; `dataset` in params.yaml names a folder under data/raw" in result.stderr


def test_a_copy_has_hardly_any_ink_where_the_other_has_none():
    levels = np.zeros((192, 192), dtype=np.uint8)
    levels[40:45, 20:170] = 2
    for stray, same in ((1, True), (8, False)):  # of 750 pixels
        other = levels.copy()
        other[150, 20 : 20 + stray] = 2
        assert Ink(levels).lies_on(Ink(other)) is Ink(other).lies_on(Ink(levels)) is same
        assert Ink(levels).lies_on(Ink(other[:, ::-1])) is same
