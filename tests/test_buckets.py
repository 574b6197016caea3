"""`fit: bucket` from the raw folder to the measures: pages of several shapes in one training."""

import csv
import json
import shutil

import pytest
from conftest import PROCESSED, ROOT, call, copy_project, set_value
from PIL import Image
from safetensors.torch import load_file

from stages import caption_blip, encode
from stages.evaluate import __main__ as evaluate
from stages.preprocess import __main__ as preprocess
from stages.train import __main__ as train
from tattoo_lora.data.captions import write_caption
from tattoo_lora.data.drawings import read_drawings

PAGES = {"candle.png": (64, 208), "skateboard.png": (208, 64), "owl.png": (96, 160)}  # px, in the profile's 128 x 128


@pytest.fixture(scope="module")
def bucketed(processed, tmp_path_factory):
    """The small folder with a tall and a wide drawing more, after every stage that reads pictures or latents."""
    copy = copy_project(processed, tmp_path_factory.mktemp("bucketed") / "p")
    for name in PAGES:
        shutil.copy(ROOT / "data/raw/flash" / name, copy / "data/raw/flash")
    set_value(copy / "params.yaml", "fit", "bucket")
    call(preprocess, copy, "data/raw/flash", "--out", PROCESSED, "--sheet", "sheet.png", "--processes", 1)
    call(encode, copy, PROCESSED, "--out", f"{PROCESSED}/latents.safetensors")
    call(caption_blip, copy, PROCESSED, "--out", f"{PROCESSED}/captions_blip")
    for drawing in read_drawings(copy / PROCESSED / "drawings.csv"):
        write_caption(copy / PROCESSED / "captions_blip", drawing.stem, f"a drawing of a {drawing.stem}")
    read = f"--latents {PROCESSED}/latents.safetensors --drawings {PROCESSED}/drawings.csv "
    read += f"--captions {PROCESSED}/captions_blip"
    call(train, copy, "blip", *f"{read} --lora lora --log-csv log.csv --samples samples".split())
    lora = "--lora lora/best.safetensors --out evaluation"
    call(evaluate, copy, "blip", *f"{read} --images {PROCESSED}/images {lora}".split())
    return copy


def test_each_drawing_has_a_page_of_its_shape_and_latents_of_that_page(bucketed):
    moments = load_file(bucketed / PROCESSED / "latents.safetensors")
    for name, (width, height) in PAGES.items():
        assert Image.open(bucketed / PROCESSED / "images" / name).size == (width, height)
        assert moments[name].shape[2:] == (height // 16, width // 16)
    assert len({tensor.shape for tensor in moments.values()}) > 2


def test_a_training_and_an_evaluation_read_them_all(bucketed):
    with (bucketed / "log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["train_loss"]) > 0 and float(rows[-1]["val_loss"]) > 0
    measured = json.loads((bucketed / "evaluation/metrics.json").read_text(encoding="utf-8"))
    assert 0 < measured["test_loss"] < 10 and 0 < measured["seen_loss"] < 10
