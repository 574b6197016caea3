"""Added, changed, renamed and removed drawings: what is new is captioned and encoded, with a clean run's bytes."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import DRAWINGS, ROOT, run, set_value
from PIL import Image, ImageDraw

PROCESSED = "data/processed/flash"


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


@pytest.mark.slow
def test_what_is_new_is_done_and_ends_as_a_clean_run_does(tmp_path):
    flash = ROOT / "data/raw/flash"
    project = project_with(tmp_path / "project", [flash / f"{name}.png" for name in DRAWINGS])
    set_value(project / "profiles/embedded.yaml", "inference_batch_size", 4)
    set_value(project / "params.yaml", "val_share", 0.3)
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
