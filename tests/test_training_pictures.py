"""What scorer and captioner are shown: no line art that is held out, and the same pictures for the same step."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "models/training"))

from corpus import MASTER, Corpus, Row  # noqa: E402
from pictures import draw_master, find_subjects, ink, smear, thicken, turned_views  # noqa: E402
from train_clip import draw_pairs  # noqa: E402

PARAMS = {"batch_size": 5, "image_size": 32, "smeared_share": 0.5}


@pytest.fixture
def few() -> Corpus:
    """Two subjects: the owl's line art is held out, the fox's is not; each picture has a grey of its own."""
    rows = {
        "color": [Row("openmoji", name, subject=True, held_out=name == "owl") for name in ("owl", "fox")],
        "painted": [Row("noto", "owl", subject=True, held_out=False, paint="red")],
        "line": [
            Row("openmoji", "owl", subject=True, held_out=True),
            Row("openmoji", "fox", subject=True, held_out=False),
            Row("ph", None, subject=False, held_out=False),
        ],
    }
    masters = {
        kind: torch.stack(
            [torch.full((MASTER, MASTER, 3), 10 * i + offset, dtype=torch.uint8) for i in range(len(rows[kind]))]
        )
        for offset, kind in enumerate(rows)
    }
    masters["line"] = masters["line"][..., 0]
    return Corpus(**masters, rows=rows, names=["owl", "fox"], tags=[[], []], subjects=["owl", "fox"])


def test_held_out_line_art_is_in_no_list(few):
    subjects = find_subjects(few)
    assert subjects.rows["owl"] == {"line": [], "color": [("color", [0]), ("painted", [0])]}
    assert subjects.rows["fox"] == {"line": [("line", [1])], "color": [("color", [1])]}


def test_a_subject_without_line_art_is_inked_from_its_colour(few):
    few.color[0] = 255
    few.color[0, 50:150, 50:150] = 0
    drawn = draw_master(few, find_subjects(few), "owl", "line", torch.Generator().manual_seed(0))
    assert drawn.shape == (MASTER, MASTER, 3)
    assert drawn[100, 100, 0] == 0 and drawn[0, 0, 0] == 255


def test_pairs_depend_on_the_generator_alone(few):
    first, again, other = (
        draw_pairs(few, find_subjects(few), PARAMS, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    assert first[1] != other[1]
    assert first[0].shape == (4, 3, 32, 32)  # both subjects in both media
    assert all("owl" in caption or "fox" in caption for caption in first[1])


def test_turned_views_show_the_whole_drawing_on_white():
    master = torch.full((40, MASTER, MASTER, 3), 255, dtype=torch.uint8)
    middle = slice(MASTER // 2 - 10, MASTER // 2 + 10)
    master[:, middle, middle] = 0
    views = turned_views(master, torch.Generator().manual_seed(0), 64)
    assert views.shape == (40, 3, 64, 64)
    assert views.amin(dim=(1, 2, 3)).max() < -0.9
    assert views[:, :, [0, -1]].min() > 0.99
    assert torch.equal(views, turned_views(master, torch.Generator().manual_seed(0), 64))


@pytest.mark.parametrize("change", [thicken, ink])
def test_lines_stay_lines(change):
    picture = torch.full((40, 40, 3), 255, dtype=torch.uint8)
    picture[18:22] = 0
    changed = change(picture, torch.Generator().manual_seed(3))
    assert changed[20].max() == 0 and changed[:10].min() == 255


def test_a_share_of_the_pictures_is_smeared():
    pictures = torch.ones(200, 3, 16, 16)
    smeared = smear(pictures, 0.3, torch.Generator().manual_seed(0))
    assert 40 < (smeared != pictures).any(dim=(1, 2, 3)).sum() < 80
    assert smeared.abs().max() <= 1
