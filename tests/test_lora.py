"""LoRA files: both formats, key by key, and what they draw when others load them."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import ROOT, run
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from tattoo_lora.drawings import Drawing
from tattoo_lora.errors import UserError
from tattoo_lora.kohya import from_kohya, kohya_name, to_kohya
from tattoo_lora.lora import TEXT_ENCODER_MODULES, add_lora, kohya_path, save_lora, write_safetensors
from tattoo_lora.lora_header import dataset_hash, word_frequency
from tattoo_lora.params import load_profile
from tattoo_lora.prompts import encode_prompts
from tattoo_lora.sampling import load_pipeline

BASE = (str(ROOT / "models/embedded/base"), None)
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERYTHING = [*ATTENTION, "conv1", "conv2", "conv_shortcut", "conv", "proj_in", "proj_out", "time_emb_proj"]
EVERYTHING += ["ff.net.0.proj", "ff.net.2"]


@pytest.fixture(scope="module")
def sd15():
    """SD 1.5's UNet and text encoder without their weights: every name and shape is the real one."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
    return unet, text_encoder


def modules(unet, text_encoder):
    names = [f"unet.{name}" for name, _ in unet.named_modules()]
    return names + [
        f"text_encoder.text_model.{name.removeprefix('text_model.')}" for name, _ in text_encoder.named_modules()
    ]


def adapters(unet, text_encoder, targets):
    """PEFT's keys and random tensors of an adapter on both, for models on the meta device too."""
    unet.add_adapter(LoraConfig(r=4, target_modules=targets), "probe")
    text_encoder.add_adapter(LoraConfig(r=4, target_modules=TEXT_ENCODER_MODULES), "probe")
    shapes = {f"unet.{k}": v.shape for k, v in get_peft_model_state_dict(unet, adapter_name="probe").items()}
    for key, tensor in get_peft_model_state_dict(text_encoder, adapter_name="probe").items():
        shapes[f"text_encoder.text_model.{key.removeprefix('text_model.')}"] = tensor.shape
    unet.delete_adapters("probe")
    text_encoder.delete_adapter("probe")
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def test_sd15_attention_has_the_names_that_kohya_gives_it(sd15):
    unet, _ = sd15
    names = {
        kohya_name(f"unet.{name}")
        for name, _ in unet.named_modules()
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
    }
    expected = set()
    places = [f"down_blocks_{block}_attentions_{layer}" for block in range(3) for layer in range(2)]
    places += ["mid_block_attentions_0"]
    places += [f"up_blocks_{block}_attentions_{layer}" for block in (1, 2, 3) for layer in range(3)]
    for place in places:
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out_0"):
                expected.add(f"lora_unet_{place}_transformer_blocks_0_{attention}_{part}")
    assert names == expected and len(names) == 128


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING], ids=["attention", "everything"])
def test_every_module_of_sd15_survives_the_way_to_kohya_and_back(sd15, targets):
    tensors = adapters(*sd15, targets)
    kohya = to_kohya(tensors, alpha=2.5)
    assert len(kohya) == len(tensors) * 3 // 2
    assert all(key.split(".")[0].startswith(("lora_unet_", "lora_te_text_model_encoder_layers_")) for key in kohya)
    back, alphas = from_kohya(kohya, modules(*sd15))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors.items())
    assert set(alphas.values()) == {2.5} and len(alphas) == len(tensors) // 2


def test_no_two_modules_of_sd15_share_a_kohya_name(sd15):
    unet, text_encoder = sd15
    names = [kohya_name(name) for name in modules(unet, text_encoder) if not name.endswith(("unet.", "text_model."))]
    assert len(names) == len(set(names))


def test_a_file_without_alpha_has_scale_one(sd15):
    tensors = adapters(*sd15, ["to_q"])
    kohya = {key: tensor for key, tensor in to_kohya(tensors, 1.0).items() if not key.endswith(".alpha")}
    assert set(from_kohya(kohya, modules(*sd15))[1].values()) == {4.0}


def test_keys_of_no_module_are_refused(sd15):
    with pytest.raises(UserError, match="lora_unet_nothing.lora_up.weight: no such module in the model"):
        from_kohya({"lora_unet_nothing.lora_up.weight": torch.zeros(1)}, modules(*sd15))
    with pytest.raises(UserError, match="unet.a.lora_magnitude_vector: the kohya format has no place for it"):
        to_kohya({"unet.a.lora_magnitude_vector": torch.zeros(1)}, 1.0)
    with pytest.raises(UserError, match="vae.a: neither of the UNet nor of the text encoder"):
        kohya_name("vae.a")


def randomise(lora_params):
    with torch.no_grad():
        for i, parameter in enumerate(lora_params):
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(i))


def make_pipeline():
    return load_pipeline(dataclasses.replace(load_profile("embedded", ROOT), base_model=BASE[0], dtype="float32"))


def draw(pipeline: StableDiffusionPipeline) -> np.ndarray:
    """What the pipeline draws, before rounding to bytes."""
    embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["", "an owl"])
    return pipeline(
        prompt_embeds=embeds[1:], negative_prompt_embeds=embeds[:1], num_inference_steps=3, guidance_scale=3.0,
        height=64, width=64, generator=torch.Generator().manual_seed(0), output_type="np",
    ).images  # fmt: skip


ADAPTERS = {
    "alpha is not rank": ({"r": 4, "lora_alpha": 3.0}, ATTENTION, False),
    "text encoder too": ({"r": 4, "lora_alpha": 2.0}, ATTENTION, True),
    "convolutions too": (
        {"r": 3, "lora_alpha": 3.0},
        [*ATTENTION, "conv1", "conv2", "proj_in", "time_emb_proj"],
        False,
    ),
    "dora": ({"r": 4, "lora_alpha": 4.0, "use_dora": True}, ATTENTION, False),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_both_files_draw_what_the_live_model_draws(kind, tmp_path):
    settings, targets, with_text = ADAPTERS[kind]
    live = make_pipeline()
    plain = draw(live)
    lora_params = add_lora(live.unet, LoraConfig(target_modules=targets, **settings), seed=0)
    if with_text:
        lora_params += add_lora(live.text_encoder, LoraConfig(target_modules=TEXT_ENCODER_MODULES, **settings), seed=0)
    randomise(lora_params)
    path = tmp_path / "best.safetensors"
    save_lora(path, live.unet, live.text_encoder if with_text else None, {"ss_seed": "1"})
    drawn = draw(live)
    assert np.abs(drawn - plain).max() > 0.01
    files = [path] if settings.get("use_dora") else [path, kohya_path(path)]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    for file in files:
        loaded = make_pipeline()
        loaded.load_lora_weights(tmp_path, weight_name=file.name)
        assert np.abs(draw(loaded) - drawn).max() < 1e-4, file.name
        loaded.fuse_lora()
        assert np.abs(draw(loaded) - drawn).max() < 1e-3, f"{file.name} fused"


def test_the_header_of_a_trained_file_is_filled_from_the_run(finished):
    commit = run("git", "rev-parse", "HEAD~1", cwd=finished).stdout.strip()
    for name in ("best.safetensors", "final.kohya.safetensors"):
        with safe_open(finished / "runs/lora/blip" / name, "pt") as file:
            header = file.metadata()
        assert header["ss_git_commit"] == commit
        assert header["ss_network_dim"] == "8" and header["ss_network_alpha"] == "8.0" and header["ss_seed"] == "42"
        assert header["ss_network_module"] == "networks.lora" and header["ss_v2"] == "False"
        assert header["ss_base_model_version"] == "sd_v1" and header["ss_sd_model_name"] == "models/embedded/base"
        assert header["modelspec.sai_model_spec"] == "1.0.1"
        assert header["modelspec.architecture"] == "stable-diffusion-v1/lora"
        assert header["modelspec.resolution"] == "64x64" and header["modelspec.prediction_type"] == "epsilon"
        assert float(header["ss_val_loss"]) > 0
        assert sum(json.loads(header["ss_tag_frequency"])["blip"].values()) > 0
        assert len(header["ss_dataset_hash"]) == 64 and len(header["sshs_model_hash"]) == 64


def test_the_header_counts_words_and_knows_the_drawings_whatever_their_order():
    assert word_frequency(["a rose, Line art", "a key"]) == {"a": 2, "art": 1, "key": 1, "line": 1, "rose": 1}
    drawings = [Drawing(f"{name}.png", name * 64, "train") for name in "ab"]
    assert dataset_hash(drawings) == dataset_hash(drawings[::-1]) != dataset_hash(drawings[:1])


def test_a_file_is_the_same_bytes_each_time_and_readable(tmp_path):
    metadata = {f"key{i}": "ü" for i in range(20)}
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"x": torch.ones(3), "b": torch.zeros(2, 2)}, metadata)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [1, 1, 1]
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata().items() >= metadata.items()
