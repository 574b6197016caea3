"""Trainings that begin with an adapter."""

import copy
import dataclasses
import hashlib
import re

import pytest
import torch
from conftest import PROCESSED, ROOT, call, copy_project, set_value
from safetensors.torch import load_file, save_file

import stages.train.__main__
from stages.train.denoiser import Denoiser, add_adapters
from stages.train.start import pinned_file, read_start
from tattoo_lora.diffusion.lora import load_lora
from tattoo_lora.diffusion.sampling import load_pipeline
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model, load_params, load_profile

PARAMS, PROFILE = load_params(ROOT).train, load_profile("embedded", ROOT).train
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "lora_unet_" + LAYER.replace(".", "_")
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(Model(str(ROOT / "models/embedded/base"), None), "float32")


def write(path, pipeline, keys=(KEY, CONV), rank=3, **others):
    """A file in kohya's format with random layers at a scale of 2."""
    modules = {"lora_unet_" + name.replace(".", "_"): module for name, module in pipeline.unet.named_modules()}
    names = {name.removeprefix("text_model."): module for name, module in pipeline.text_encoder.named_modules()}
    modules |= {"lora_te_text_model_" + name.replace(".", "_"): module for name, module in names.items()}
    generator, tensors = torch.Generator().manual_seed(0), {}
    for key in keys:
        outer, inner, *kernel = modules[key].weight.shape
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, inner, *kernel, generator=generator) / 5
        tensors[f"{key}.lora_up.weight"] = torch.randn(outer, rank, *(1 for _ in kernel), generator=generator) / 5
        tensors[f"{key}.alpha"] = torch.tensor(2.0 * rank)
    save_file(tensors | others, path)
    return path


def answer(unet):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, unet.config.in_channels, 8, 8, generator=generator)
    embeds = torch.randn(1, 8, unet.config.cross_attention_dim, generator=generator)
    with torch.inference_mode():
        return unet(latents, 500, embeds).sample


def started(pipeline, path, params=PARAMS, text_encoder=None, targets=("to_q", "conv1")):
    denoiser = Denoiser(copy.deepcopy(pipeline.unet), None, copy.deepcopy(text_encoder))
    denoiser.start = read_start(path, pipeline.unet, pipeline.text_encoder)
    add_adapters(denoiser, params, dataclasses.replace(PROFILE, target_modules=list(targets)))
    return denoiser


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_first_step_is_what_the_file_does_whatever_the_trainings_scale(pipeline, use_rslora, tmp_path):
    path = write(tmp_path / "a.safetensors", pipeline)
    plain = answer(pipeline.unet)
    loaded = load_pipeline(Model(str(ROOT / "models/embedded/base"), None), "float32")
    load_lora(loaded, path)
    params = dataclasses.replace(PARAMS, rank=8, alpha=2.0, use_rslora=use_rslora)
    unet = started(pipeline, path, params).unet
    assert (answer(loaded.unet) - plain).abs().max() > 0.1
    assert (answer(unet) - answer(loaded.unet)).abs().max() < 1e-4
    layer = unet.get_submodule(LAYER)
    assert layer.lora_A["default"].weight[3:].abs().min() > 0  # free to learn: B alone is zero there
    assert layer.lora_B["default"].weight[:, 3:].abs().max() == 0


def test_the_text_encoder_continues_too(pipeline, tmp_path):
    path = write(tmp_path / "a.safetensors", pipeline, (TEXT,))
    params = dataclasses.replace(PARAMS, text_encoder_lr=1e-4)
    denoiser = started(pipeline, path, params, pipeline.text_encoder)
    name = next(name for name, _ in denoiser.text_encoder.named_modules() if name.endswith("layers.0.self_attn.q_proj"))
    layer = denoiser.text_encoder.get_submodule(name)
    expected = load_file(path)[f"{TEXT}.lora_up.weight"] * 2 / layer.scaling["default"]
    assert torch.allclose(layer.lora_B["default"].weight[:, :3], expected)


REFUSED = {
    "a larger rank": ({"rank": 9}, {}, rf"rank 9 at unet\.{LAYER}, this training 8; raise train.rank or resize"),
    "a layer that does not learn": ({}, {"targets": ["to_q"]}, r"changes unet\.\S+conv1, which this training does not"),
    "a frozen text encoder": ({"keys": (TEXT,)}, {}, r"changes text_encoder\.\S+q_proj, which this training does not"),
    "a DoRA to be": ({}, {"params": dataclasses.replace(PARAMS, use_dora=True)}, "set train.use_dora: false"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_cannot_be_continued_exactly_is_refused(kind, pipeline, tmp_path):
    file, options, message = REFUSED[kind]
    path = write(tmp_path / "a.safetensors", pipeline, **file)
    with pytest.raises(UserError, match=f"params.yaml: train.init_from: .*{message}"):
        started(pipeline, path, **options)


def test_a_dora_is_not_continued(pipeline, tmp_path):
    names = {
        f"unet.{LAYER}.lora_{part}.weight": f"{KEY}.lora_{old}.weight" for part, old in (("A", "down"), ("B", "up"))
    }
    tensors = load_file(write(tmp_path / "a.safetensors", pipeline, (KEY,)))
    magnitude = torch.ones(len(tensors[f"{KEY}.lora_up.weight"]))
    dora = {key: tensors[name] for key, name in names.items()} | {f"unet.{LAYER}.lora_magnitude_vector": magnitude}
    save_file(dora, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="b.safetensors: a DoRA, which cannot be continued; take a LoRA"):
        read_start(tmp_path / "b.safetensors", pipeline.unet, pipeline.text_encoder)


def test_the_param_names_the_files_hash(tmp_path):
    path = tmp_path / "a@b.safetensors"
    path.write_bytes(b"1")
    digits = hashlib.sha256(b"1").hexdigest()
    assert pinned_file(f"{path}@{digits[:16]}") == pinned_file(f"{path}@{digits}") == path
    for wrong in (f"{path}@{digits[:8]}", f"{path}@{'0' * 16}"):
        with pytest.raises(UserError, match=re.escape(f"as it is now, write {path}@{digits[:16]}")):
            pinned_file(wrong)
    plain = path.rename(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match=re.escape(f"write {plain}@{digits[:16]}")):
        pinned_file(str(plain))
    with pytest.raises(UserError, match="train.init_from: none.safetensors: no such file"):
        pinned_file("none.safetensors@0123456789abcdef")


def test_the_command_continues_from_the_file(processed, pipeline, tmp_path):
    project = copy_project(processed, tmp_path / "p")
    path = write(project / "a.safetensors", pipeline, (KEY,))
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    set_value(project / "params.yaml", "init_from", f"a.safetensors@{digits}")
    set_value(project / "profiles/embedded.yaml", "learning_rate", "1.0e-8")
    options = (
        f"--latents {PROCESSED}/latents.safetensors --drawings {PROCESSED}/drawings.csv "
        f"--captions {PROCESSED}/captions_blip --lora lora --log-csv log.csv --samples samples"
    )
    call(stages.train.__main__, project, "blip", *options.split())
    learned, file = load_file(project / "lora/final.safetensors"), load_file(path)
    up, down = (learned[f"unet.{LAYER}.lora_{part}.weight"] for part in "BA")
    expected = 2 * file[f"{KEY}.lora_up.weight"] @ file[f"{KEY}.lora_down.weight"]
    assert (up @ down - expected).abs().max() < 1e-4 < expected.abs().max()
