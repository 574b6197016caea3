"""LoRA files: both formats, key by key, and what they draw when others load them."""

import copy
import dataclasses
import functools
import hashlib
import json
import math
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, room_for
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from stages.train.header import BaseKind, dataset_hash, lora_header, word_frequency
from tattoo_lora.data.drawings import Drawing
from tattoo_lora.diffusion.adapter_files import plain_name, read_adapter
from tattoo_lora.diffusion.kohya import kohya_name, to_kohya
from tattoo_lora.diffusion.lora import (
    TEXT_ENCODER_MODULES,
    add_lora,
    kohya_path,
    layer_ranks,
    load_lora,
    save_lora,
    write_safetensors,
)
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import load_pipeline
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model, load_params, load_profile

BASE = Model(str(ROOT / "models/embedded/base"), None)
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
    unet, text_encoder = copy.deepcopy((unet, text_encoder))
    unet.add_adapter(LoraConfig(r=4, target_modules=targets), "probe")
    text_encoder.add_adapter(LoraConfig(r=4, target_modules=TEXT_ENCODER_MODULES), "probe")
    shapes = {f"unet.{k}": v.shape for k, v in get_peft_model_state_dict(unet, adapter_name="probe").items()}
    for key, tensor in get_peft_model_state_dict(text_encoder, adapter_name="probe").items():
        shapes[f"text_encoder.text_model.{key.removeprefix('text_model.')}"] = tensor.shape
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
def test_every_module_of_sd15_survives_the_way_to_kohya_and_back(sd15, targets, tmp_path):
    tensors = adapters(*sd15, targets)
    kohya = to_kohya(tensors, scale=2.5 / 4)
    assert len(kohya) == len(tensors) * 3 // 2
    assert all(key.split(".")[0].startswith(("lora_unet_", "lora_te_text_model_encoder_layers_")) for key in kohya)
    save_file(kohya, tmp_path / "kohya.safetensors")
    back = {
        key.replace("text_encoder.", "text_encoder.text_model."): tensor
        for key, tensor in read_adapter(tmp_path / "kohya.safetensors", *sd15).items()
    }
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.allclose(back[key], tensor * (2.5 / 4 if "lora_B" in key else 1), rtol=1e-6), key


@pytest.mark.parametrize(
    ("targets", "rank", "ranks", "parameters"),
    [
        (["attention"], 8, None, 1_594_368),
        (["all"], 4, None, 1_695_744),
        (["attn-ff"], 8, {"ff": 4}, 2_293_248),
        (["attention", "conv1"], 8, {"to_v": 2, "conv1": 1}, None),
    ],
)
def test_sets_of_layers_and_their_ranks_have_so_many_parameters_in_sd15(sd15, targets, rank, ranks, parameters):
    by_layer = layer_ranks(targets, rank, ranks)
    unet = copy.deepcopy(sd15[0])
    expected = sum(
        rank * (module.weight[0].numel() + module.weight.shape[0])
        for name, module in unet.named_modules()
        for layer, rank in by_layer.items()
        if name.endswith(f".{layer}")
    )
    assert parameters in (None, expected)
    config = LoraConfig(r=rank, target_modules=list(by_layer), rank_pattern=by_layer)
    assert sum(parameter.numel() for parameter in add_lora(unet, config, seed=0)) == expected


def test_no_two_modules_of_sd15_share_a_kohya_name(sd15):
    unet, text_encoder = sd15
    names = [name for name in modules(unet, text_encoder) if not name.endswith(("unet.", "text_model.", ".to_out"))]
    for short in (kohya_name, plain_name):
        assert len({short(name) for name in names}) == len(names)


def test_keys_that_kohyas_format_lacks_are_refused():
    with pytest.raises(UserError, match="unet.a.lora_magnitude_vector: the kohya format has no place for it"):
        to_kohya({"unet.a.lora_magnitude_vector": torch.zeros(1)}, 1.0)
    with pytest.raises(UserError, match="vae.a: neither of the UNet nor of the text encoder"):
        kohya_name("vae.a")


def randomise(lora_params):
    with torch.no_grad():
        for i, parameter in enumerate(lora_params):
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(i))


def make_pipeline():
    return load_pipeline(BASE, "float32")


MINIATURE = functools.cache(make_pipeline)  # for what loads nothing into it


def draw(pipeline: StableDiffusionPipeline) -> np.ndarray:
    """What the pipeline draws, before rounding to bytes."""
    embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["", "an owl"])
    return pipeline(
        prompt_embeds=embeds[1:],
        negative_prompt_embeds=embeds[:1],
        num_inference_steps=3,
        guidance_scale=3.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images


BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
# Layers of the miniature as files have them: rank, alpha and whether LoCon splits the kernel; every one differs.
FACTORS = {
    f"unet.{BLOCK}.attn1.to_q": (4, 1.0, False),
    f"unet.{BLOCK}.attn1.to_out.0": (2, 6.0, False),
    f"unet.{BLOCK}.ff.net.0.proj": (3, 3.0, False),
    "unet.down_blocks.0.attentions.0.proj_in": (5, 2.0, False),
    "unet.down_blocks.0.resnets.0.conv1": (4, 8.0, True),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (2, 1.0, False),
    "text_encoder.text_model.encoder.layers.1.mlp.fc1": (3, 12.0, False),
}
ATTENTION_ONLY = [key for key in FACTORS if "to_" in key or "q_proj" in key]


def find_module(pipeline, name):
    model, _, inner = name.replace("text_model.", "").partition(".")
    return getattr(pipeline, model).get_submodule(inner)


def make_layers(pipeline, names=tuple(FACTORS)):
    """{module: (down, up, mid or None, alpha)} of random numbers that change what the model says."""
    generator, layers = torch.Generator().manual_seed(0), {}
    for name in names:
        rank, alpha, split = FACTORS[name]
        outer, inner, *kernel = find_module(pipeline, name).weight.shape

        def normal(*shape):
            return torch.randn(shape, generator=generator) * 0.2

        ones = [1] * len(kernel)
        down = normal(rank, inner, *(ones if split else kernel))
        layers[name] = down, normal(outer, rank, *ones), normal(rank, rank, *kernel) if split else None, alpha
    return layers


def kohya_file(layers, te="lora_te_"):
    """As kohya's trainers write it, the alphas different from module to module."""
    tensors = {}
    for name, (down, up, mid, alpha) in layers.items():
        key = kohya_name(name).replace("lora_te_", te)
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        tensors |= {} if mid is None else {f"{key}.lora_mid.weight": mid}
    return tensors


def named(layers, down, up, change=lambda name: name):
    """The tensors under diffusers' or PEFT's names, without alphas: a scale of 1."""
    return {
        f"{change(name)}{part}": tensor
        for name, layer in layers.items()
        for part, tensor in ((down, layer[0]), (up, layer[1]))
    }


def processor_name(name):
    """diffusers' first: `attn1.processor.to_out_lora`, without the model's name for the UNet."""
    if name.startswith("unet."):
        return re.sub(r"\.(to_\w+?)(?:\.0)?$", r".processor.\1_lora", name.removeprefix("unet."))
    return re.sub(r"(\w)_proj$", r"to_\1_lora", name)


def locon_off(layers):
    return {name: layer for name, layer in layers.items() if layer[2] is None}


# What files of the kinds that most people hold look like: (tensors, header, do alphas count).
FILES = {
    "kohya": lambda layers: (kohya_file(locon_off(layers)), {}, True),
    "kohya LoCon": lambda layers: (kohya_file(layers), {}, True),
    "kohya of diffusers' script, lora_te1_": lambda layers: (kohya_file(layers, te="lora_te1_"), {}, True),
    "kohya without alphas, in half precision": lambda layers: (
        {key: tensor.half() for key, tensor in kohya_file(layers).items() if "alpha" not in key},
        {},
        False,
    ),
    "diffusers, first": lambda layers: (
        named({key: layers[key] for key in ATTENTION_ONLY}, ".down.weight", ".up.weight", processor_name),
        {},
        False,
    ),
    "diffusers, second": lambda layers: (named(locon_off(layers), ".lora.down.weight", ".lora.up.weight"), {}, False),
    "diffusers, text encoder's": lambda layers: (
        named(
            {key: layer for key, layer in layers.items() if key.startswith("text")},
            ".lora_linear_layer.down.weight",
            ".lora_linear_layer.up.weight",
        ),
        {},
        False,
    ),
    "PEFT of diffusers, with its header": lambda layers: (
        named(locon_off(layers), ".lora_A.weight", ".lora_B.weight"),
        metadata(locon_off(layers)),
        True,
    ),
    "PEFT without text_model": lambda layers: (
        named(locon_off(layers), ".lora_A.weight", ".lora_B.weight", lambda name: name.replace("text_model.", "")),
        {},
        False,
    ),
    "PEFT, raw": lambda layers: (
        named(
            {key: layer for key, layer in locon_off(layers).items() if key.startswith("unet")},
            ".lora_A.default.weight",
            ".lora_B.default.weight",
            lambda name: "base_model.model." + name.removeprefix("unet."),
        ),
        {},
        False,
    ),
}


LOHA = f"unet.{BLOCK}.attn1.to_q"
LOHA_CONV = "unet.down_blocks.0.resnets.0.conv1"


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 0.3


def kron(one, other):
    """torch.kron of a matrix and a kernel, as LyCORIS' make_kron."""
    return torch.kron(one.reshape(*one.shape, *[1] * (other.ndim - 2)), other.contiguous())


def tucker(core, a, b):
    return torch.einsum("ij...,ip,jr->pr...", core, a, b)


def lycoris(kind, outer, inner, kernel):
    """A layer's tensors by role, and the change of its weight, by LyCORIS' formulas."""
    flat = inner * math.prod(kernel)
    if kind == "LoHa":
        parts = {
            f"w{i}_{side}": normal(*n, seed=i) for i in (1, 2) for side, n in (("a", (outer, 3)), ("b", (3, flat)))
        }
        change = (parts["w1_a"] @ parts["w1_b"]) * (parts["w2_a"] @ parts["w2_b"])
        return {f"hada_{part}": tensor for part, tensor in parts.items()}, change.view(outer, inner, *kernel) * 5 / 3
    if kind == "LoHa, Tucker":
        parts = {f"w{i}_{side}": normal(3, n, seed=i) for i in (1, 2) for side, n in (("a", outer), ("b", inner))}
        parts |= {f"t{i}": normal(3, 3, *kernel, seed=i) for i in (1, 2)}
        one, other = (tucker(parts[f"t{i}"], parts[f"w{i}_a"], parts[f"w{i}_b"]) for i in (1, 2))
        return {f"hada_{part}": tensor for part, tensor in parts.items()}, one * other * 5 / 3
    a, b, c, d = 4, 2, outer // 4, inner // 2
    whole, factored = normal(a, b), (normal(a, 3, seed=3), normal(3, b, seed=4))
    if kind == "LoKr, whole":
        other = normal(c, d, *kernel, seed=5)
        return {"lokr_w1": whole, "lokr_w2": other}, kron(whole, other)  # then alpha does not count
    if kind == "LoKr, Tucker":
        core, wa, wb = normal(3, 3, *kernel), normal(3, c), normal(3, d, seed=6)
        parts = {"lokr_w1": whole, "lokr_t2": core, "lokr_w2_a": wa, "lokr_w2_b": wb}
        return parts, kron(whole, tucker(core, wa, wb)) * 5 / 3
    wa, wb = normal(c, 3), normal(3, d * math.prod(kernel), seed=7)
    other = (wa @ wb).view(c, d, *kernel)
    if kind == "LoKr":
        return {"lokr_w1": whole, "lokr_w2_a": wa, "lokr_w2_b": wb}, kron(whole, other) * 5 / 3
    parts = {"lokr_w1_a": factored[0], "lokr_w1_b": factored[1], "lokr_w2_a": wa, "lokr_w2_b": wb}
    return parts, kron(factored[0] @ factored[1], other) * 5 / 3


@pytest.mark.parametrize("name", [LOHA, LOHA_CONV])
@pytest.mark.parametrize("kind", ["LoHa", "LoHa, Tucker", "LoKr", "LoKr, whole", "LoKr, both factored", "LoKr, Tucker"])
def test_a_loha_or_lokr_changes_the_weight_as_lycoris_does(kind, name, tmp_path):
    pipeline = MINIATURE()
    outer, inner, *kernel = find_module(pipeline, name).weight.shape
    if "Tucker" in kind and not kernel:
        pytest.skip("LyCORIS has Tucker's form for convolutions alone")
    parts, change = lycoris(kind, outer, inner, kernel)
    key = kohya_name(name)
    tensors = {f"{key}.{role}": tensor.contiguous() for role, tensor in parts.items()} | {
        f"{key}.alpha": torch.tensor(5.0)
    }
    save_file(tensors, tmp_path / "file.safetensors")
    read = read_adapter(tmp_path / "file.safetensors", pipeline.unet, pipeline.text_encoder)
    down, up = read[f"{name}.lora_A.weight"], read[f"{name}.lora_B.weight"]
    made = (up.flatten(1) @ down.flatten(1)).view_as(change)
    assert change.abs().max() > 0.1 and (made - change).abs().max() < 1e-6 * max(1, change.abs().max())


@pytest.mark.parametrize("name", [LOHA, LOHA_CONV, f"unet.{BLOCK}.ff.net.0.proj"])
@pytest.mark.parametrize("by_output", [True, False])
def test_a_dora_of_kohyas_changes_the_weight_as_lycoris_does(name, by_output, tmp_path):
    pipeline = make_pipeline()
    weight = find_module(pipeline, name).weight
    (outer, inner, *kernel), key = weight.shape, kohya_name(name)
    layer = {"lora_down.weight": normal(3, inner, *kernel), "lora_up.weight": normal(outer, 3, *(1 for _ in kernel))}
    layer |= {"alpha": torch.tensor(6.0), "dora_scale": normal(outer, 1, *(1 for _ in kernel)) + 2}
    if not by_output:
        layer["dora_scale"] = normal(1, inner, *(1 for _ in kernel)) + 2
    save_file({f"{key}.{part}": tensor for part, tensor in layer.items()}, tmp_path / "file.safetensors")
    read = read_adapter(tmp_path / "file.safetensors", pipeline.unet, pipeline.text_encoder)
    down, up = read[f"{name}.lora_A.weight"], read[f"{name}.lora_B.weight"]
    tuned = weight + 2 * (layer["lora_up.weight"].flatten(1) @ layer["lora_down.weight"].flatten(1)).view_as(weight)
    axes = [axis for axis in range(weight.ndim) if axis != (0 if by_output else 1)]
    tuned = tuned * layer["dora_scale"] / tuned.square().sum(dim=axes, keepdim=True).sqrt()
    made = weight + (up.flatten(1) @ down.flatten(1)).view_as(weight)
    assert (tuned - weight).abs().max() > 0.1 and (made - tuned).abs().max() < 1e-6 * max(1, tuned.abs().max())
    before = said(pipeline)
    load_lora(pipeline, tmp_path / "file.safetensors")
    loaded = said(pipeline)
    pipeline.unload_lora_weights()
    find_module(pipeline, name).weight.data = tuned.detach()
    assert (said(pipeline) - before).abs().max() > 0.01
    assert (said(pipeline) - loaded).abs().max() < 1e-3 * before.abs().max()


def metadata(layers):
    pattern = {name: alpha for name, (*_, alpha) in layers.items()}
    config = {"unet.r": 4, "unet.lora_alpha": 1.0, "text_encoder.r": 4, "text_encoder.lora_alpha": 1.0}
    for model in ("unet", "text_encoder"):
        own = {k.removeprefix(f"{model}."): v for k, v in pattern.items() if k.startswith(f"{model}.")}
        config[f"{model}.alpha_pattern"] = {k: v for k, v in own.items() if v != 1.0}
    return {"lora_adapter_metadata": json.dumps(config)}


def said(pipeline):
    """What text encoder and UNet answer, before anything is rounded."""
    embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["an owl"])
    latents = torch.randn(1, pipeline.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.cat([embeds.flatten(), pipeline.unet(latents, 500, embeds).sample.flatten()])


@pytest.mark.parametrize("kind", FILES)
def test_each_layer_of_a_file_changes_by_the_files_own_arithmetic(kind, tmp_path):
    """As the LoHa, LoKr and DoRA above: alpha / rank * up @ down, to 1e-6."""
    layers = make_layers(MINIATURE())
    tensors, header, alphas_count = FILES[kind](layers)
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "file.safetensors", header)
    read = read_adapter(tmp_path / "file.safetensors", MINIATURE().unet, MINIATURE().text_encoder)
    dtype = next(iter(tensors.values())).dtype
    compared = 0
    for name, (*parts, alpha) in layers.items():
        key = name.replace("text_model.", "")
        if f"{key}.lora_A.weight" in read:
            down, up, mid = (part if part is None else part.to(dtype).double() for part in parts)
            kernel = down if mid is None else torch.einsum("rshw,si->rihw", mid, down.flatten(1))
            change = up.flatten(1) @ kernel.flatten(1) * (alpha / len(down) if alphas_count else 1)
            a, b = (read[f"{key}.lora_{part}.weight"].flatten(1).double() for part in "AB")
            assert change.abs().max() > 0.01 and (b @ a - change).abs().max() < 1e-6
            compared += 1
    assert 2 * compared == len(read) > 0


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_others_does_what_merging_it_exactly_does(kind, tmp_path):
    merged, loaded = make_pipeline(), make_pipeline()
    layers = make_layers(merged)
    tensors, header, alphas_count = FILES[kind](layers)
    held = {key.rpartition("lora")[0] for key in tensors}
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "file.safetensors", header)
    before = said(merged)
    read = read_adapter(tmp_path / "file.safetensors", merged.unet, merged.text_encoder)
    assert len(held) >= 2 and len(read) == 2 * len({key.rpartition(".lora_")[0] for key in read})
    for name, (down, up, mid, alpha) in layers.items():
        if f"{name.replace('text_model.', '')}.lora_A.weight" in read:
            kernel = down.flatten(1) if mid is None else torch.einsum("rshw,si->rihw", mid, down.flatten(1)).flatten(1)
            weight = find_module(merged, name).weight
            change = (up.flatten(1) @ kernel).view_as(weight) * (alpha / down.shape[0] if alphas_count else 1)
            weight.data += change
    load_lora(loaded, tmp_path / "file.safetensors")
    assert (said(merged) - before).abs().max() > 0.1
    assert (said(loaded) - said(merged)).abs().max() < 1e-3 * before.abs().max()


def test_raw_peft_files_take_their_scale_from_the_config_beside_them(tmp_path):
    pipeline = make_pipeline()
    name = f"{BLOCK}.attn1.to_q"
    down, up, _, _ = make_layers(pipeline)[f"unet.{name}"]
    tensors = {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    for config, scale in (({"lora_alpha": 8, "r": 4}, 2), ({"lora_alpha": 8, "r": 4, "use_rslora": True}, 4)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        read = read_adapter(tmp_path / "adapter_model.safetensors", pipeline.unet, pipeline.text_encoder)
        assert torch.allclose(read[f"unet.{name}.lora_B.weight"], up * scale)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="adapter_model.safetensors: the adapter's config in its header or in adapter_"):
        read_adapter(tmp_path / "adapter_model.safetensors", pipeline.unet, pipeline.text_encoder)


def some(changes):
    """A kohya file of two layers of the miniature, changed."""
    tensors = kohya_file(make_layers(MINIATURE(), ATTENTION_ONLY[:2]))
    return {key: tensor for key, tensor in (tensors | changes).items() if tensor is not None}


TO_Q = kohya_name(f"unet.{BLOCK}.attn1.to_q")
REFUSED = {
    "half foreign": (
        {"lora_unet_nothing.lora_up.weight": torch.zeros(2), "a.b": torch.zeros(2)},
        r"2 of 8 keys fit no layer \(first: a.b\); was it made for another model\?",
    ),
    "of SDXL": ({"lora_te2_x.alpha": torch.zeros(1)}, "1 of 7 keys fit no layer"),
    "half a layer": ({f"{TO_Q}.lora_up.weight": None}, "to_q: half of the adapter's layer is missing"),
    "of a wider model": (
        {f"{TO_Q}.lora_down.weight": torch.zeros(4, 768)},
        r"to_q: made for a layer of \d+ x 768, found one of \d+ x \d+; was it made for another model\?",
    ),
    "diverged": (
        {f"{TO_Q}.lora_up.weight": torch.full((128, 4), torch.nan)},
        "to_q.lora_B.weight holds numbers that are not finite; the training has diverged",
    ),
    "a DoRA of another width": (
        {f"{TO_Q}.dora_scale": torch.ones(65, 1)},
        r"to_q: its dora_scale is \[65, 1\], the weight \[\d+, \d+\]",
    ),
    "DoRA in part": ({f"{TO_Q}.lora_magnitude_vector": torch.ones(64)}, "DoRA with magnitudes for 1 of 2 layers"),
    "OFT": ({f"{TO_Q}.oft_blocks": torch.ones(1)}, "an OFT; only LoRA, LoCon, LoHa, LoKr and DoRA files can be used"),
    "half a LoHa": (
        {f"{TO_Q}.lora_up.weight": None, f"{TO_Q}.hada_w1_a": torch.ones(1)},
        "to_q: half of the adapter's layer is missing",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_cannot_be_used_exactly_is_refused_in_a_line(kind, tmp_path):
    changes, message = REFUSED[kind]
    save_file(some(changes), tmp_path / "file.safetensors")
    with pytest.raises(UserError, match=f"file.safetensors: .*{message}"):
        load_lora(MINIATURE(), tmp_path / "file.safetensors")


def test_pickles_and_files_of_no_kind_are_refused_with_what_to_do(tmp_path):
    torch.save(some({}), tmp_path / "old.bin")
    torch.save(some({}), tmp_path / "older.safetensors", _use_new_zipfile_serialization=False)
    for name in ("old.bin", "older.safetensors"):
        with pytest.raises(UserError, match=f"{name}: a pickle, which can run code when it is read; convert it to"):
            load_lora(MINIATURE(), tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    with pytest.raises(UserError, match="cut.safetensors: no .safetensors file"):
        load_lora(MINIATURE(), tmp_path / "cut.safetensors")
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(UserError, match="empty.safetensors: holds no adapter"):
        load_lora(MINIATURE(), tmp_path / "empty.safetensors")


ADAPTERS = {
    "alpha is not rank": ({"r": 4, "lora_alpha": 3.0}, ATTENTION, False),
    "text encoder too": ({"r": 4, "lora_alpha": 2.0}, ATTENTION, True),
    "convolutions too": (
        {"r": 3, "lora_alpha": 3.0},
        [*ATTENTION, "conv1", "conv2", "proj_in", "time_emb_proj"],
        False,
    ),
    "rsLoRA and other ranks": (
        {
            "r": 4,
            "lora_alpha": 2.0,
            "use_rslora": True,
            "rank_pattern": {"to_v": 2},
            "alpha_pattern": {"to_v": 2 / 2**0.5},
        },
        ATTENTION,
        False,
    ),
    "rsLoRA of the text encoder too": ({"r": 4, "lora_alpha": 2.0, "use_rslora": True}, ATTENTION, True),
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
        load_lora(loaded, file)
        assert np.abs(draw(loaded) - drawn).max() < 1e-4, file.name
        if "rank_pattern" in settings and file == kohya_path(path):
            continue  # diffusers, unlike kohya's other readers, drops alphas that differ: it has a file of its own
        loaded = make_pipeline()
        loaded.load_lora_weights(tmp_path, weight_name=file.name)  # as others load it
        assert np.abs(draw(loaded) - drawn).max() < 1e-4, file.name
        loaded.fuse_lora()
        assert np.abs(draw(loaded) - drawn).max() < 1e-3, f"{file.name} fused"


def test_the_header_of_a_trained_file_is_filled_from_the_run(finished):
    for name in ("best.safetensors", "final.kohya.safetensors"):
        with safe_open(finished / "runs/lora/blip" / name, "pt") as file:
            header = file.metadata()
        assert "ss_git_commit" not in header  # the same run gives the same bytes at any commit
        assert header["ss_network_dim"] == "8" and header["ss_network_alpha"] == "8.0" and header["ss_seed"] == "42"
        assert header["ss_network_module"] == "networks.lora" and header["ss_v2"] == "False"
        assert header["ss_base_model_version"] == "sd_v1_v" and header["ss_sd_model_name"] == "models/embedded/base"
        assert header["modelspec.sai_model_spec"] == "1.0.1"
        assert header["modelspec.architecture"] == "stable-diffusion-v1/lora"
        assert header["modelspec.resolution"] == "128x128" and header["modelspec.prediction_type"] == "v"
        assert float(header["ss_val_loss"]) > 0
        assert sum(json.loads(header["ss_tag_frequency"])["blip"].values()) > 0
        assert len(header["ss_dataset_hash"]) == 64 and len(header["sshs_model_hash"]) == 64


def test_the_header_counts_words_and_knows_the_drawings_whatever_their_order():
    assert word_frequency(["a rose, Line art", "a key"]) == {"a": 2, "art": 1, "key": 1, "line": 1, "rose": 1}
    drawings = [Drawing(f"{name}.png", name * 64, "train") for name in "ab"]
    assert dataset_hash(drawings) == dataset_hash(drawings[::-1]) != dataset_hash(drawings[:1])


def test_the_header_says_what_the_adapter_learned_from_and_how():
    params = dataclasses.replace(load_params(ROOT).train, rank=4, alpha=2.0, seed=9)
    whole = load_profile("embedded", ROOT)
    train = dataclasses.replace(whole.train, target_modules=["to_q"])
    profile = dataclasses.replace(whole, train=train, base=Model(whole.base.id, "abc"))
    drawings = [Drawing("a.png", "a" * 64, "train"), Drawing("b.png", "b" * 64, "val")]
    header = lora_header(
        "mine",
        "inked",
        [["inked, an owl", "inked, an old owl"], ["a key"]],
        drawings,
        params,
        profile,
        BaseKind("v_prediction", 768),
    )
    assert (header["ss_network_dim"], header["ss_network_alpha"], header["ss_seed"]) == ("4", "2.0", "9")
    assert json.loads(header["ss_tag_frequency"]) == {"mine": {"an": 2, "inked": 2, "owl": 2, "old": 1}}
    assert (header["ss_num_train_images"], header["ss_dataset_hash"]) == ("1", dataset_hash(drawings))
    assert (header["modelspec.trigger_phrase"], header["modelspec.prediction_type"]) == ("inked", "v")
    assert header["ss_sd_model_name"] == "models/embedded/base@abc" and header["ss_network_args"] == "{}"
    train = dataclasses.replace(train, target_modules=["to_q", "conv1"])
    convolutions = dataclasses.replace(profile, train=train)
    header = lora_header("mine", "", [["an owl"], ["a key"]], drawings, params, convolutions, BaseKind("epsilon", 768))
    assert json.loads(header["ss_network_args"]) == {"conv_dim": "4"}
    params = dataclasses.replace(params, use_rslora=True, ranks={"conv1": 2})
    header = lora_header("mine", "", [["an owl"], ["a key"]], drawings, params, convolutions, BaseKind("epsilon", 768))
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "4.0")  # 2 x √4
    assert json.loads(header["ss_network_args"]) == {"conv_dim": "2"}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (BaseKind("epsilon", 768), ("stable-diffusion-v1/lora", "epsilon", "sd_v1", "False")),
        (BaseKind("v_prediction", 768), ("stable-diffusion-v1/lora", "v", "sd_v1_v", "False")),
        (BaseKind("epsilon", 1024), ("stable-diffusion-v2-512/lora", "epsilon", "sd_v2", "True")),
        (BaseKind("v_prediction", 1024), ("stable-diffusion-v2-768-v/lora", "v", "sd_v2_v", "True")),
    ],
)
def test_the_header_says_which_stable_diffusion_the_base_is(kind, said):
    header = lora_header("mine", "", [], [], load_params(ROOT).train, load_profile("embedded", ROOT), kind)
    keys = ("modelspec.architecture", "modelspec.prediction_type", "ss_base_model_version", "ss_v2")
    assert tuple(header[key] for key in keys) == said


def test_a_file_is_the_same_bytes_each_time_and_readable(tmp_path):
    metadata = {f"key{i}": "ü" for i in range(20)}
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"x": torch.ones(3), "b": torch.zeros(2, 2)}, metadata)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [1, 1, 1]
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata().items() >= metadata.items()


def test_an_adapter_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"x": torch.ones(3)}, {})
    with room_for(1000), pytest.raises(OSError):
        write_safetensors(path, {"x": torch.zeros(3000)}, {})
    assert load_file(path)["x"].tolist() == [1, 1, 1]


def test_the_hash_in_the_header_is_that_of_what_follows_it(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"x": torch.ones(3)}, {})
    content = (tmp_path / "a.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        said = file.metadata()["sshs_model_hash"]
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 8 == 0 and said == hashlib.sha256(content[start:]).hexdigest()
