"""The results in Git are those of the main job, and they show what the documents claim."""

import json

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

VARIANTS = ("vanilla", "blip", "blip_plus")


def saturation(name):
    """Mean of max - min over the channels, 0 for grey, of the fixed prompts' pictures."""
    pixels = np.asarray(Image.open(ROOT / f"plots/samples/{name}.png").convert("RGB"), dtype=float)
    return (pixels.max(axis=2) - pixels.min(axis=2)).mean()


def metrics(name):
    return json.loads((ROOT / f"metrics/{name}.json").read_text(encoding="utf-8"))


def test_every_variant_predicts_held_out_line_art_better_than_the_base():
    assert all(metrics(variant)["val_loss"] < metrics("base")["val_loss"] for variant in VARIANTS)


@pytest.mark.xfail(strict=True, reason="blip and blip_plus leave 0.31, vanilla 0.97; see models/embedded/README.md")
def test_the_variants_draw_lines_where_the_base_paints():
    assert all(saturation(variant) <= saturation("base") / 4 for variant in VARIANTS)


def test_the_table_says_what_the_metrics_say():
    table = (ROOT / "plots/comparison.md").read_text(encoding="utf-8")
    for name in ("base", *VARIANTS):
        assert f"{metrics(name)['val_loss']:.4f}" in table
        assert f"{metrics(name)['clip_score']:.2f}" in table
