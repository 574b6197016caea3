"""What lies on the hub was saved years ago, under other names: the same weights load from both, and nothing is new."""

import json
import shutil

import diffusers.utils.logging
import pytest
import torch
import transformers.utils.logging
from conftest import ROOT
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from test_models import LOADERS

from bench.hub_layout import base_as_on_the_hub, blip_as_on_the_hub, clip_as_on_the_hub
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model

EMBEDDED = ROOT / "models/embedded"
AS_ON_THE_HUB = {"base": base_as_on_the_hub, "captioner": blip_as_on_the_hub, "clip": clip_as_on_the_hub}
FOLDERS = {"captioner": "captioner", "clip": "clip"}  # all else is a part of the base


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """The miniature's models; its VAE has the attention that SD 1.5's has, and random weights."""
    folder = tmp_path_factory.mktemp("today")
    for ours, name in (("base", "base"), ("blip", "captioner"), ("clip", "clip")):
        shutil.copytree(EMBEDDED / ours, folder / name)
    vae = folder / "base/vae"
    torch.manual_seed(0)
    AutoencoderKL.from_config(AutoencoderKL.load_config(vae) | {"mid_block_add_attention": True}).save_pretrained(vae)
    return folder


@pytest.fixture(scope="module")
def hub(today, tmp_path_factory):
    """The same models as they would lie on the hub."""
    folder = shutil.copytree(today, tmp_path_factory.mktemp("hub") / "models")
    for name, convert in AS_ON_THE_HUB.items():
        convert(folder / name)
    return folder


@pytest.fixture
def said(caplog):
    """What the libraries log."""
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.enable_propagation()
        logging.set_verbosity_warning()
    yield caplog
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_propagation()
        logging.set_verbosity_error()


def load(part, folder):
    loaded = LOADERS[part](Model(str(folder / FOLDERS.get(part, "base")), None))
    return loaded if isinstance(loaded, tuple) else (loaded, None)


def test_the_files_and_keys_are_those_of_the_hub(hub):
    vae = load_file(hub / "base/vae/diffusion_pytorch_model.safetensors")
    assert {"decoder.mid_block.attentions.0.proj_attn.weight", "encoder.mid_block.attentions.0.query.bias"} <= set(vae)
    text = load_file(hub / "base/text_encoder/model.safetensors")
    assert text["text_model.embeddings.position_ids"].shape == (1, 32)
    assert all(key.startswith("text_model.") for key in text)
    assert {path.name for path in (hub / "base/tokenizer").iterdir()} == {
        *("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
    }
    index = json.loads((hub / "base/model_index.json").read_text())
    assert index["safety_checker"] == ["stable_diffusion", "StableDiffusionSafetyChecker"]
    assert (hub / "base/unet/diffusion_pytorch_model.fp16.safetensors").is_file()


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "captioner", "clip"])
def test_the_same_weights_load_from_both_and_the_libraries_are_silent(today, hub, part, said):
    one, other = load(part, today)[0].state_dict(), load(part, hub)[0].state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not said.records


@pytest.mark.parametrize(
    "part, file, key",
    [
        ("vae", "base/vae/diffusion_pytorch_model.safetensors", "decoder.mid_block.attentions.0.query.weight"),
        ("unet", "base/unet/diffusion_pytorch_model.safetensors", "conv_in.weight"),
        ("text_encoder", "base/text_encoder/model.safetensors", "text_model.final_layer_norm.weight"),
        ("captioner", "captioner/model.safetensors", "vision_model.post_layernorm.weight"),
        ("clip", "clip/model.safetensors", "visual_projection.weight"),
    ],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_weights_that_are_missing_or_of_another_shape_are_refused_in_a_line(
    hub, tmp_path, capfd, part, file, key, is_there
):
    folder = shutil.copytree(hub, tmp_path / "models")
    tensors = load_file(folder / file)
    tensor = tensors.pop(key)
    save_file(tensors | ({key: tensor[:-1].contiguous()} if is_there else {}), folder / file, {"format": "pt"})
    with pytest.raises(UserError, match="not a whole model folder") as error:
        load(part, folder)
    assert "\n" not in str(error.value) and not any(capfd.readouterr())
    name = key.replace("query", "to_q").removeprefix("text_model.")
    assert name in str(error.value)


def test_texts_are_cut_into_the_same_tokens_and_noise_into_the_same_steps(today, hub):
    tokenizers = [load("tokenizer", folder)[0] for folder in (today, hub)]
    text = "a line drawing of an owl, héllo 123 don't"
    one, other = (tokenizer(text, padding="max_length").input_ids for tokenizer in tokenizers)
    assert one == other and tokenizers[0].model_max_length == tokenizers[1].model_max_length
    one, other = (load("noise_scheduler", folder)[0].alphas_cumprod for folder in (today, hub))
    assert torch.equal(one, other)


@pytest.mark.parametrize("part", ["captioner", "clip"])
def test_pictures_and_texts_are_prepared_alike(today, hub, part):
    picture = Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 50).convert("RGB")
    one, other = (load(part, folder)[1] for folder in (today, hub))
    pixels = [
        processor.image_processor(images=[picture], return_tensors="pt").pixel_values for processor in (one, other)
    ]
    assert torch.equal(*pixels)
    assert one.tokenizer("a drawing of an owl").input_ids == other.tokenizer("a drawing of an owl").input_ids


def test_a_folder_with_half_precision_alone_is_refused_in_a_line(hub, tmp_path):
    folder = shutil.copytree(hub, tmp_path / "models")
    (folder / "base/unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="not a whole model folder"):
        load("unet", folder)
