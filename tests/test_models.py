"""Loading: one clear line for whatever is not there, safetensors only, and no network."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run
from safetensors.torch import load_file, save, save_file
from transformers import BlipImageProcessorPil, CLIPImageProcessorPil

from tattoo_lora.diffusion.captioners import load_captioner
from tattoo_lora.diffusion.models import (
    load_clip,
    load_noise_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    on_device,
    pick_dtype,
)
from tattoo_lora.diffusion.tokenizer import load_tokenizer
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model

EMBEDDED = ROOT / "models/embedded"
LOADERS = {
    "vae": load_vae,
    "unet": lambda model: load_unet(model, torch.float32),
    "text_encoder": load_text_encoder,
    "noise_scheduler": load_noise_scheduler,
    "tokenizer": load_tokenizer,
    "captioner": load_captioner,
    "clip": load_clip,
}


@pytest.mark.parametrize("part", LOADERS)
def test_a_model_folder_that_is_not_there_is_named(part, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such model folder; see the model ids in profiles"):
        LOADERS[part](Model(str(tmp_path / "nowhere"), None))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.safetensors", save({"weight": torch.zeros(2)}), "no checkpoint of Stable Diffusion (first key: weight)"),
        ("mine.safetensors", b"<html>", "a file that is no checkpoint (Error while deserializing header"),
        ("mine.safetensors", None, "no such checkpoint file"),
        ("mine.ckpt", b"PK", "a pickle, which is never read because it may run any code"),
        ("mine.ckpt", None, "a pickle, which is never read because it may run any code"),
        ("README", b"text", "a file that is no checkpoint (Error while deserializing header"),
    ],
)
def test_a_checkpoint_file_is_not_called_a_missing_folder(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    model = f"models/{name}"  # has the form of a hub id
    if content is not None:
        Path(model).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{model}: {message}")) as error:
        load_tokenizer(Model(model, None))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", LOADERS)
def test_a_folder_that_holds_no_model_is_named(part, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: not a whole model folder") as error:
        LOADERS[part](Model(str(tmp_path), None))
    assert "\n" not in str(error.value)


def test_weights_in_a_pickle_are_refused(tmp_path):
    model = shutil.copytree(EMBEDDED / "clip", tmp_path / "clip")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UserError, match="not a whole model folder"):
        load_clip(Model(str(model), None))


def test_a_broken_weights_file_is_one_clear_line(tmp_path):
    model = shutil.copytree(EMBEDDED / "clip", tmp_path / "clip")
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="not a whole model folder"):
        load_clip(Model(str(model), None))


def test_what_is_loaded_is_frozen_and_in_evaluation_mode():
    for model in (load_vae(Model(str(EMBEDDED / "base"), None)), load_clip(Model(str(EMBEDDED / "clip"), None))[0]):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_images_are_processed_with_pil_whatever_else_is_installed():
    assert isinstance(load_clip(Model(str(EMBEDDED / "clip"), None))[1].image_processor, CLIPImageProcessorPil)
    assert isinstance(load_captioner(Model(str(EMBEDDED / "blip"), None))[1].image_processor, BlipImageProcessorPil)


def test_the_embedded_models_are_safetensors_of_at_most_48_mb_and_name_no_other_machine():
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".png"}
    assert sum(path.stat().st_size for path in files) <= 48e6
    for path in files:
        if path.suffix == ".json":
            assert "_name_or_path" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("device", "bfloat16", "name", "expected"),
    [
        ("cpu", True, "auto", torch.bfloat16),
        ("cpu", False, "auto", torch.float32),
        ("cpu", True, "float32", torch.float32),
        ("cpu", False, "bfloat16", torch.bfloat16),
        ("cpu", False, "float16", torch.float16),
        ("cuda", True, "auto", torch.bfloat16),
        ("cuda", False, "auto", torch.float16),
        ("cuda", True, "float16", torch.float16),
        ("cuda", True, "float32", torch.float32),
        ("mps", False, "auto", torch.float32),
        ("mps", False, "float16", torch.float16),
    ],
)
def test_the_dtype_fits_the_device_unless_it_is_named(monkeypatch, device, bfloat16, name, expected):
    monkeypatch.setattr("tattoo_lora.diffusion.models.pick_device", lambda: torch.device(device))
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bfloat16)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": bfloat16})
    assert pick_dtype(name, Model("someone/stable-diffusion", "a" * 40)) == expected


def test_a_miniature_computes_in_float32_on_any_cpu_and_half_a_gigabyte_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr("tattoo_lora.diffusion.models.pick_device", lambda: torch.device("cpu"))
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    weights = tmp_path / "unet/model.safetensors"
    weights.parent.mkdir()
    for size, expected in ((4e8, torch.float32), (6e8, torch.bfloat16)):
        with weights.open("wb") as file:
            file.truncate(int(size))  # takes no room on the disk
        for model in (tmp_path, weights):
            assert pick_dtype("auto", Model(str(model), None)) == expected
    assert {pick_dtype("auto", Model(str(path), None)) for path in EMBEDDED.iterdir()} == {torch.float32}


def test_models_are_on_the_device_only_while_they_are_used():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(KeyboardInterrupt), on_device(torch.device("meta"), model):
        assert model.weight.device.type == "meta"
        model.to_empty(device="cpu")
        raise KeyboardInterrupt
    assert model.weight.device.type == "cpu"


def test_a_hub_model_that_is_not_cached_says_where_it_was_looked_for(tmp_path):
    code = "from tattoo_lora.errors import one_line_errors\nfrom tattoo_lora.diffusion.models import load_clip\n"
    code += "from tattoo_lora.params import Model\n"
    code += "with one_line_errors():\n    load_clip(Model('openai/clip-vit-base-patch32', 'c237dc4'))\n"
    result = run("env", f"HF_HOME={tmp_path}", "python", "-c", code, cwd=ROOT, check=False)
    assert result.returncode == 1
    [error] = result.stderr.strip().splitlines()  # no package says a word of its own
    assert error.startswith("error: openai/clip-vit-base-patch32: neither on the hub nor in its cache")
    assert "`hf download openai/clip-vit-base-patch32 --revision c237dc4`" in error


def test_a_hub_model_whose_copy_is_not_whole_says_to_fetch_it_again(tmp_path, monkeypatch):
    """The cache as the hub's client lays it out, with the miniature's CLIP less one of its weights."""
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "hub/models--someone--clip"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("a" * 40)
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(EMBEDDED / "clip", snapshot)
    tensors = load_file(snapshot / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, snapshot / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    again = "`hf download someone/clip --force-download`"
    message = rf"in the hub's cache \(1 weights are missing.*\); fetch it again with {again}"
    with pytest.raises(UserError, match=message):
        load_clip(Model("someone/clip", None))


def test_what_only_one_optimizer_needs_is_not_imported_by_all_stages():
    code = "import tattoo_lora.diffusion.models, tattoo_lora.diffusion.lora, sys"
    code += "; print([name for name in sys.modules if name.startswith('bitsandbytes.')])"
    code += "; from stages.train.denoiser import make_optimizer; import torch; p = torch.nn.Parameter(torch.ones(2))"
    code += "; print(type(make_optimizer([{'params': [p], 'lr': 0.1}], 'adamw_8bit', 0.0)).__module__)"
    imported, module = run("python", "-c", code, cwd=ROOT).stdout.split()
    assert imported == "[]"
    assert module == "bitsandbytes.optim.adamw"
