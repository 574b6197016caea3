"""Every stage that computes, and what draws, in each dtype that a profile can name: what a GPU does, on the CPU."""

import dataclasses
import json
import re
import shutil

import pandas as pd
import pytest
import torch
from conftest import PROCESSED, ROOT, call, copy_project, set_value
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

import stages.caption_blip
import stages.encode
import stages.evaluate.__main__
import stages.train.__main__
from app.generate import Settings, Studio
from tattoo_lora.diffusion.sampling import decode_latents, load_pipeline
from tattoo_lora.params import BaseModel, load_profile

DTYPES = ("bfloat16", "float16")  # float32 is what all the other tests run in
TRAININGS = {
    "low memory": {"low_memory": "true"},
    "DoRA": {"use_dora": "true"},
    "all else": {
        "text_encoder_lr": 1.0e-4,
        "ema_decay": 0.9,
        "lora_dropout": 0.1,
        "gradient_checkpointing": "true",
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "train.batch_size": 2,
    },
}


@pytest.fixture(scope="module", params=DTYPES)
def project(request, processed, tmp_path_factory):
    """The tiny project with a profile of that dtype, captioned and encoded in it."""
    project = copy_project(processed, tmp_path_factory.mktemp(request.param) / "p")
    set_value(project / "profiles/embedded.yaml", "dtype", request.param)
    set_value(project / "profiles/embedded.yaml", "steps", 2)
    call(stages.caption_blip, project, PROCESSED, "--out", f"{PROCESSED}/captions_blip")
    call(stages.encode, project, PROCESSED, "--out", f"{PROCESSED}/latents.safetensors")
    return project


def train(project, **settings):
    """The adapter's folder after a training with these settings."""
    files = [project / "params.yaml", project / "profiles/embedded.yaml"]
    before = [path.read_text() for path in files]
    for key, value in settings.items():
        name = key.rpartition(".")[2]
        set_value(next(path for path in files if re.search(rf"(?m)^ *{name}:", path.read_text())), key, value)
    options = (
        f"--latents {PROCESSED}/latents.safetensors --drawings {PROCESSED}/drawings.csv "
        f"--captions {PROCESSED}/captions_blip --lora lora --log-csv log.csv --samples samples"
    )
    call(stages.train.__main__, project, "blip", *options.split())
    for path, text in zip(files, before, strict=True):
        path.write_text(text)
    return project / "lora"


def test_a_vae_that_overflows_in_float16_is_decoded_in_float32_whatever_the_dtype(tmp_path):
    """What SD 1.5's own VAE does: saved in half precision and run in it, it gives black pictures."""
    base = ROOT / "models/embedded/base"
    shutil.copytree(base, tmp_path / "base")
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
    conv = vae.decoder.conv_in
    with torch.no_grad():  # too large for float16 between two layers; what follows brings it back
        conv.weight *= 3e4 / conv.weight.abs().max()
    vae.half().save_pretrained(tmp_path / "base/vae")
    latents = torch.randn(1, vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not vae.decode(latents.half() / vae.config.scaling_factor).sample.isfinite().all()
    pipeline = load_pipeline(BaseModel(str(tmp_path / "base"), None), "float16")
    assert pipeline.unet.dtype == torch.float16 and pipeline.vae.dtype == torch.float32
    [image] = decode_latents(pipeline, latents.half())
    assert all(low < high for low, high in image.getextrema())


def dtype_of(project):
    return load_profile("embedded", project).inference.dtype


def is_drawn(path):
    with Image.open(path) as image:
        return any(low < high for low, high in image.getextrema())


def test_captions_and_latents_are_made(project):
    captions = [path.read_text().strip() for path in (project / PROCESSED / "captions_blip").iterdir()]
    assert len(captions) == 12 and all(captions)
    latents = load_file(project / PROCESSED / "latents.safetensors").values()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in latents)


@pytest.mark.parametrize("kind", TRAININGS)
def test_an_adapter_is_trained_with_pictures_on_the_way(project, kind):
    lora = train(project, **TRAININGS[kind])
    tensors = load_file(lora / "final.safetensors")
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values())
    assert any(tensor.any() for key, tensor in tensors.items() if "lora_B" in key)
    assert all(is_drawn(path) for path in (project / "samples").rglob("*.png"))
    rows = pd.read_csv(project / "log.csv")
    assert rows["val_loss"].notna().sum() >= 2 and rows["clip_score"].notna().sum() >= 2


def test_an_adapter_is_measured_and_drawn_with(project):
    lora = train(project) / "best.safetensors"
    options = (
        f"--latents {PROCESSED}/latents.safetensors --drawings {PROCESSED}/drawings.csv --images {PROCESSED}/images "
        f"--captions {PROCESSED}/captions_blip --lora {lora} --out out"
    )
    call(stages.evaluate.__main__, project, "blip", *options.split())
    assert all(is_drawn(path) for path in (project / "out").glob("*.png"))
    metrics = json.loads((project / "out/metrics.json").read_text())
    # bfloat16 is not what it is measured in.
    assert metrics["dtype"] == {"bfloat16": "float32", "float16": "float16"}[dtype_of(project)]
    # As in float32: losses are measured in no dtype that would move them by what counts as a difference.
    assert metrics["test_loss"] == pytest.approx(reference(project, lora), rel=0.002)


def reference(project, lora):
    set_value(project / "profiles/embedded.yaml", "dtype", "float32")
    options = (
        f"--latents {PROCESSED}/latents.safetensors --drawings {PROCESSED}/drawings.csv --images {PROCESSED}/images "
        f"--captions {PROCESSED}/captions_blip --lora {lora} --out reference"
    )
    call(stages.evaluate.__main__, project, "blip", *options.split())
    return json.loads((project / "reference/metrics.json").read_text())["test_loss"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_picture_is_drawn(dtype, low_memory):
    profile = load_profile("embedded", ROOT)
    profile = dataclasses.replace(profile, sampling=dataclasses.replace(profile.sampling, low_memory=low_memory))
    base = str(ROOT / profile.base.id)
    settings = Settings("an owl", "", 7, 4, 4.0, 64, 64, base, None, dtype)
    image = Studio().draw(settings, profile)
    assert any(low < high for low, high in image.getextrema())
