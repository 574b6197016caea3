"""Added, changed, renamed and removed drawings: what is new is captioned and encoded, with a clean run's bytes."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import DRAWINGS, PROCESSED, ROOT, call, copy_project, run, set_value
from PIL import Image, ImageDraw, ImageOps
from safetensors.torch import load_file, save_file

from stages import caption_blip, encode


def counts(project: Path) -> tuple[int, int, int]:
    """Run the three stages; how many drawings each did anew: decoded, captioned, encoded."""
    out = run(
        *("python", "-m", "stages.preprocess", "data/raw/flash", "--out", PROCESSED, "--sheet", "plots/drawings.png"),
        cwd=project,
    ).stdout
    for folder in ("captions_blip", "latents.safetensors"):  # DVC removes them before a rerun
        path = project / PROCESSED / folder
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    out += run(
        "python", "-m", "stages.caption_blip", PROCESSED, "--out", f"{PROCESSED}/captions_blip", cwd=project
    ).stdout
    out += run(
        "python", "-m", "stages.encode", PROCESSED, "--out", f"{PROCESSED}/latents.safetensors", cwd=project
    ).stdout
    found = [re.search(rf"(\d+) {what}", out) for what in ("files decoded", "by BLIP", "of them encoded")]
    return tuple(int(match[1]) for match in found)


def results(project: Path) -> dict[Path, bytes]:
    folder = project / PROCESSED
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def project_with(target: Path, drawings: list[Path]) -> Path:
    for name in ("profiles", "params.yaml", "models/embedded/base", "models/embedded/blip", "stages", "tattoo_lora"):
        source, copy = ROOT / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    (target / "data/raw/flash").mkdir(parents=True)
    for path in drawings:
        shutil.copy(path, target / "data/raw/flash")
    return target


def change_last_byte(path):
    """Of a model's file, which stays one that loads."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def copy(processed, tmp_path):
    """The small folder with models of its own."""
    project = copy_project(processed, tmp_path / "p")
    (project / "models").unlink()
    shutil.copytree(ROOT / "models/embedded", project / "models/embedded")
    return project


def encoded(project):
    out = call(encode, project, PROCESSED, "--out", f"{PROCESSED}/latents.safetensors")
    return int(re.search(r"(\d+) of them encoded", out)[1])


def captioned(project):
    out = call(caption_blip, project, PROCESSED, "--out", f"{PROCESSED}/captions_blip")
    return int(re.search(r"(\d+) by BLIP", out)[1])


ENCODING = {
    "revision": lambda project: set_value(project / "profiles/embedded.yaml", "base.revision", "other"),
    "model files": lambda project: change_last_byte(
        project / "models/embedded/base/vae/diffusion_pytorch_model.safetensors"
    ),
    "flip": lambda project: set_value(project / "params.yaml", "flip", "false"),
    "placements": lambda project: set_value(project / "params.yaml", "placements", 2),
    "batch size": lambda project: set_value(project / "profiles/embedded.yaml", "inference.batch_size", 5),
}


@pytest.mark.parametrize("change", ENCODING)
def test_whatever_the_latents_depend_on_encodes_all_anew(copy, change):
    encoded(copy)
    assert encoded(copy) == 0
    ENCODING[change](copy)
    assert encoded(copy) == len(DRAWINGS)
    assert encoded(copy) == 0


CAPTIONING = {
    "revision": lambda project: set_value(project / "profiles/embedded.yaml", "captioner.revision", "other"),
    "model files": lambda project: change_last_byte(project / "models/embedded/blip/model.safetensors"),
    "length": lambda project: set_value(project / "params.yaml", "max_new_tokens", 3),
    "beams": lambda project: set_value(project / "params.yaml", "num_beams", 2),
    "batch size": lambda project: set_value(project / "profiles/embedded.yaml", "inference.batch_size", 5),
}


@pytest.mark.parametrize("change", CAPTIONING)
def test_whatever_the_captions_depend_on_captions_all_anew(copy, change):
    assert captioned(copy) == len(DRAWINGS)
    assert captioned(copy) == 0
    CAPTIONING[change](copy)
    assert captioned(copy) == len(DRAWINGS)
    assert captioned(copy) == 0


def test_a_drawing_that_changed_is_encoded_anew_under_its_own_name_and_view(copy):
    before = load_file(copy / PROCESSED / "latents.safetensors")
    path = copy / PROCESSED / "images/key.png"
    ImageOps.mirror(Image.open(path)).save(path)
    assert encoded(copy) == 1
    after = load_file(copy / PROCESSED / "latents.safetensors")
    assert [file for file in before if not before[file].equal(after[file])] == ["key.png"]
    assert (before["key.png"].flip(0) - after["key.png"]).abs().max() < 1e-3  # its views are exchanged
    assert (before["key.png"] - after["key.png"]).abs().max() > 0.1


def test_the_users_own_captions_are_taken_and_the_drawings_not_captioned(copy):
    (copy / PROCESSED / "captions_user.csv").write_text("file,caption\nkey.png,my own key\n")
    assert captioned(copy) == len(DRAWINGS) - 1
    texts = {path.stem: path.read_text() for path in (copy / PROCESSED / "captions_blip").iterdir()}
    assert texts["key"] == "my own key\n" and set(texts) == set(DRAWINGS)
    assert sum(name in text for name, text in texts.items()) >= 8  # each has its own, not another's


def poison(path, key, value):
    """Fill the tensor of a model's file."""
    tensors = load_file(path)
    save_file(tensors | {key: tensors[key].fill_(value)}, path, metadata={"format": "pt"})


def test_latents_that_are_not_finite_name_their_drawing(copy, capsys):
    path = copy / "models/embedded/base/vae/diffusion_pytorch_model.safetensors"
    poison(path, "quant_conv.bias", math.nan)
    with pytest.raises(SystemExit):
        encoded(copy)
    assert "images/anchor.png: the VAE gave no finite latents" in capsys.readouterr().err


def test_a_picture_that_is_not_whole_latents_is_refused(copy, capsys):
    Image.new("RGB", (64, 36), "white").save(copy / PROCESSED / "images/owl.png")
    with pytest.raises(SystemExit):
        encoded(copy)
    assert "images/owl.png: 64 x 36 px; for this VAE both must be multiples of " in capsys.readouterr().err


def test_an_empty_caption_names_its_drawing_and_what_to_change(copy, capsys):
    path = copy / "models/embedded/blip/model.safetensors"
    end = json.loads((path.parent / "config.json").read_text())["text_config"]["sep_token_id"]
    tensors = load_file(path)
    bias = next(key for key in tensors if key.endswith("predictions.bias") or key.endswith("decoder.bias"))
    tensors[bias][end] = 1e4  # nothing is as likely as the end
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(SystemExit):
        captioned(copy)
    assert "anchor.png: empty caption; raise caption_blip.max_new_tokens" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_new_is_done_and_ends_as_a_clean_run_does(tmp_path):
    flash = ROOT / "data/raw/flash"
    project = project_with(tmp_path / "project", [flash / f"{name}.png" for name in DRAWINGS])
    set_value(project / "profiles/embedded.yaml", "inference.batch_size", 4)
    set_value(project / "params.yaml", "test_share", 0.3)
    assert counts(project) == (12, 12, 12)
    raw = project / "data/raw/flash"
    shutil.copy(flash / "spider.png", raw)
    (raw / "owl.png").rename(raw / "Night Owl.png")
    (raw / "bat.png").unlink()
    shutil.copy(flash / "tiger.png", raw / "fox.png")
    assert counts(project) == (2, 2, 2)
    clean = project_with(tmp_path / "clean", list(raw.iterdir()))
    for name in ("profiles/embedded.yaml", "params.yaml"):
        shutil.copy(project / name, clean / name)
    assert counts(clean) == (12, 12, 12)
    assert results(clean) == results(project)


@pytest.mark.slow
def test_one_drawing_more_than_two_thousand_is_one_done(tmp_path):
    (tmp_path / "drawings").mkdir()
    for i in range(2001):
        image, points = Image.new("L", (160, 120), 255), np.random.default_rng(i).integers(5, 115, (9, 2))
        ImageDraw.Draw(image).line([tuple(map(int, point)) for point in points], 0, 3)
        image.save(tmp_path / f"drawings/{i:04d}.png")
    drawings = sorted((tmp_path / "drawings").iterdir())
    project = project_with(tmp_path / "project", drawings[:2000])
    assert counts(project) == (2000, 2000, 2000)
    shutil.copy(drawings[2000], project / "data/raw/flash")
    assert counts(project) == (1, 1, 1)
    clean = project_with(tmp_path / "clean", drawings)
    assert counts(clean) == (2001, 2001, 2001)
    assert results(clean) == results(project)
