"""The training recipe's data: which hands it learns, by which licence, and what is kept out of it."""

import io
import itertools
import json
import random
import re
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import ImageColor
from safetensors.torch import save_file

from tattoo_lora.data import split
from tattoo_lora.data.split import file_sha256

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "models/training"
sys.path.append(str(TRAINING))

import corpus  # noqa: E402
import draw_corpus  # noqa: E402
import hands  # noqa: E402
import openmoji  # noqa: E402

HOUSE = '<path fill="#D22F27" stop-opacity="1" opacity=".9" d="M2 2h6v6H2z"/>'
PARAMS = {"seed": 0, "paints": 2, "others": 3}


def write_package(folder: Path, hand: hands.Hand, icons: dict[str, str], license: str | None = None) -> Path:
    """A package of Iconify's form with these bodies of SVGs."""
    files = {
        "icons.json": {"width": 10, "height": 10, "icons": {name: {"body": body} for name, body in icons.items()}},
        "info.json": {"license": {"spdx": license or hand.license}},
    }
    with tarfile.open(folder / hand.archive, "w:gz") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder / hand.archive


@pytest.fixture
def hand() -> hands.Hand:
    return hands.Hand("pens", "line", "@iconify-json/pens", "1.0.0", "MIT", "Pens", ("-line", ""))


def test_every_hand_stands_in_the_readme_with_its_licence():
    table = (TRAINING / "README.md").read_text(encoding="utf-8")
    rows = {tuple(cell.strip() for cell in line.split("|")[1:5]) for line in table.splitlines() if line[:1] == "|"}
    for hand in hands.read_hands():
        assert (hand.package.removeprefix("@iconify-json/"), hand.version, hand.by, hand.license) in rows, hand.name


def test_the_card_credits_every_hand_that_was_learned():
    card = " ".join((ROOT / "models/embedded/README.md").read_text(encoding="utf-8").split())
    for hand in hands.read_hands():
        credited = f"{hand.package.removeprefix('@iconify-json/')} {hand.version} ({hand.by}, {hand.license})" in card
        assert credited == (hand.group != "unseen"), hand.name


def test_a_licence_that_shares_too_little_is_refused(tmp_path, monkeypatch):
    table = yaml.safe_load((TRAINING / "hands.yaml").read_text(encoding="utf-8"))
    table["line"]["ph"]["license"] = "CC-BY-NC-4.0"
    (tmp_path / "hands.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    monkeypatch.setattr(hands, "HERE", tmp_path)
    with pytest.raises(ValueError, match=r"hands.yaml: ph: CC-BY-NC-4.0 is none of"):
        hands.read_hands()


def test_a_package_of_another_licence_than_said_is_refused(tmp_path, hand):
    archive = write_package(tmp_path, hand, {"house": HOUSE}, license="GPL-3.0")
    with pytest.raises(ValueError, match="its licence is GPL-3.0, hands.yaml says MIT"):
        hands.IconSet(archive, hand)


def test_no_package_is_learned_and_unseen():
    groups = {}
    for hand in hands.read_hands():
        groups.setdefault(hand.package, set()).add(hand.group)
    assert {package for package, group in groups.items() if "unseen" in group} == {
        "@iconify-json/tabler",
        "@iconify-json/fluent-emoji-high-contrast",
        "@iconify-json/iconoir",
        "@iconify-json/carbon",
    }
    assert all(len(group) == 1 for group in groups.values())
    # fluent-emoji-high-contrast is the line art of this one.
    assert not next(hand for hand in hands.read_hands() if hand.name == "fluent-emoji-flat").outlined


@pytest.mark.parametrize(
    ("group", "kinds"),
    [
        ("coloured", {"color": ["owl"], "painted": ["owl", "owl"], "line": ["owl"]}),
        ("coloured, not outlined", {"color": ["owl"], "painted": ["owl", "owl"]}),
        ("line", {"line": ["owl", None, None]}),  # and of the others, those in the hand's style
        ("unseen", {"unseen": ["owl"]}),
    ],
)
def test_what_is_learned_of_a_hand(tmp_path, hand, group, kinds):
    hand = replace(hand, group=group.split(",")[0], outlined="not" not in group)
    bodies = {"owl-line": HOUSE, "owl": HOUSE, "a-line": HOUSE, "b": HOUSE, "c-fill": HOUSE}
    table = draw_corpus.Table()
    icons = hands.IconSet(write_package(tmp_path, hand, bodies), hand)
    taken = [name for name in icons.others if name != "owl"]
    assert sorted(taken) == ["a-line", "b", "owl-line"]
    draw_corpus.draw_icons(table, icons, ["owl", "fox"], {}, PARAMS | {"others": 2})
    drawn = {kind: [row.name for row in rows] for kind, rows in table.rows.items() if rows}
    assert drawn == kinds
    assert {kind: len(pictures) for kind, pictures in table.pictures.items() if pictures} == {
        kind: len(names) for kind, names in kinds.items()
    }


@pytest.mark.parametrize(
    ("subject", "found"),
    [("wolf face", "wolf-head"), ("gem stone", "gem"), ("snow-capped mountain", None), ("owl", "owl-line")],
)
def test_a_subject_is_found_under_the_names_that_icon_sets_use(tmp_path, hand, subject, found):
    bodies = dict.fromkeys(["wolf", "wolf-head", "gem", "owl", "owl-line"], HOUSE)
    icons = hands.IconSet(write_package(tmp_path, hand, bodies), hand)
    assert icons.find(subject, {"gem stone": ["gem"]}) == found


def test_what_the_pipeline_holds_out_is_held_out():
    share = yaml.safe_load((TRAINING / "params.yaml").read_text(encoding="utf-8"))["corpus"]["held_out_share"]
    preprocess = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["preprocess"]
    samples = ROOT / "data/raw/flash"
    held_out = draw_corpus.held_out_subjects(samples, share, preprocess["val_share"] + preprocess["test_share"])
    files = {file_sha256(path): path.stem.replace("-", " ") for path in samples.glob("*.png")}
    splits = split.split_contents(files, preprocess["val_share"], preprocess["test_share"])
    by_pipeline = {files[content] for content in splits if splits[content] != "train"}
    assert len(by_pipeline) == 34 and by_pipeline <= {name.replace("-", " ") for name in held_out}
    assert {"wolf", "deer", "dragon face", "key", "compass", "top hat", "snail", "volcano"} <= held_out


def test_holding_out_less_than_the_pipeline_is_refused():
    with pytest.raises(ValueError, match="held_out_share 0.05 is less than the pipeline holds out, 0.1"):
        draw_corpus.held_out_subjects(ROOT / "data/raw/flash", 0.05, 0.1)


def test_a_coloured_drawing_becomes_line_art():
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">{HOUSE}</svg>'
    picture, box = draw_corpus.render_master(draw_corpus.outline_svg(svg, 0.1))
    assert picture[corpus.MASTER // 2, corpus.MASTER // 2].tolist() == [255, 255, 255]
    assert picture[corpus.MASTER // 2].min() == 0
    # 6 of 10 units and half a line on each side, of 320 px.
    assert box == (48, 48, 272, 272)
    assert np.ptp(picture.astype(int), axis=2).max() == 0


@pytest.mark.parametrize("paint", openmoji.PAINTS)
def test_a_paint_keeps_apart_what_the_drawing_does(paint):
    plate_and_sign = '<path fill="#9266CC"/><path fill="#FFFFFF"/><path fill="#5C4278"/><path fill="#000000"/>'
    for seed in range(20):
        painted = openmoji.repaint_svg(plate_and_sign, paint, random.Random(seed))
        lumas = [ImageColor.getcolor(color, "L") for color in re.findall("#[0-9A-F]{6}", painted)]
        assert min(abs(a - b) for a, b in itertools.combinations(lumas, 2)) >= 8, painted
        assert lumas[3] == 0


def test_a_blank_drawing_is_left_out(hand):
    table = draw_corpus.Table()
    assert table.add("line", '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>', None) is None
    assert table.rows["line"] == []


def test_views_frame_move_and_never_cut_the_drawing():
    master = torch.full((corpus.MASTER, corpus.MASTER), 255, dtype=torch.uint8)
    edge = (corpus.MASTER - corpus.BOX) // 2
    master[edge:-edge, edge:-edge] = 0
    framed = corpus.views(master[None])[0]
    assert framed.shape == (3, 128, 128)
    black = (framed[0] < 0).any(dim=0).nonzero()[[0, -1], 0].tolist()
    assert black == [7, 120]  # of 128 px: the margin is 6% of the drawing on each side
    for seed in range(20):
        view = corpus.views(master[None], torch.Generator().manual_seed(seed))[0, 0]
        assert view[[0, -1]].min() > -0.9 and view[:, [0, -1]].min() > -0.9
    again = [corpus.views(master[None], torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)


def test_the_corpus_reads_back(tmp_path, hand):
    rows = [corpus.Row("pens", "owl", subject=True, held_out=False)]
    pictures = {key: torch.zeros(1, 8, 8, dtype=torch.uint8) for key in ("color", "painted", "line")}
    save_file(pictures, tmp_path / "drawings.safetensors")
    described = {key: [vars(row) for row in rows] for key in ("color", "painted", "line", "unseen")}
    described |= {"names": ["owl"], "tags": [["bird"]], "subjects": ["owl"]}
    (tmp_path / "drawings.json").write_text(json.dumps(described), encoding="utf-8")
    assert corpus.load_corpus(tmp_path).rows["line"] == rows
    assert "unseen" not in corpus.load_corpus(tmp_path).rows
