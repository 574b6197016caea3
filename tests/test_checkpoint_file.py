"""A base model in one file, as model sites hand it out: read as the folder with the same weights, or refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import original_layout, write_checkpoint
from conftest import ROOT, set_value
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from app.release import how_to_use
from bench import BASE
from bench.full_size_models import write_base
from tattoo_lora.diffusion import checkpoint_file
from tattoo_lora.diffusion.captioners import load_captioner
from tattoo_lora.diffusion.models import load_noise_scheduler, load_text_encoder, load_unet, load_vae
from tattoo_lora.diffusion.sampling import load_pipeline
from tattoo_lora.diffusion.tokenizer import load_tokenizer
from tattoo_lora.errors import UserError
from tattoo_lora.keys import model_key
from tattoo_lora.params import BaseModel, Model, load_profile


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Stable Diffusion 1.5's structure, narrow, with random weights, and its configs in the place of SD 1.5's."""
    folder = shutil.copytree(checkpoint_file.LAYOUT, tmp_path_factory.mktemp("narrow") / "base")
    narrowed = {
        "unet": {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 24, "attention_head_dim": 4},
        "vae": {"block_out_channels": [32, 32, 32, 64]},
        "text_encoder": {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    }
    for part, settings in narrowed.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    torch.manual_seed(0)
    for cls, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        cls.from_config(cls.load_config(folder, subfolder=part)).save_pretrained(folder / part)
    CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")).save_pretrained(folder / "text_encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_file, "LAYOUT", folder)
        yield folder


LOADERS = {"vae": load_vae, "unet": lambda base: load_unet(base, torch.float32), "text_encoder": load_text_encoder}


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("kind", ["float32", "float16", "with EMA"])
def test_the_same_weights_as_folder_and_as_file_are_the_same_model(narrow, tmp_path, part, kind):
    tensors, folder = original_layout(narrow), narrow
    if kind == "float16":
        tensors = {key: tensor.half() for key, tensor in tensors.items()}
    if kind == "with EMA":  # kept apart by the trainers of the first release, beside the weights that are used
        ema = {
            f"model_ema.{key[6:].replace('.', '')}": tensor + 1 for key, tensor in tensors.items() if "model.d" in key
        }
        tensors |= ema
    save_file(tensors, tmp_path / "mine.safetensors")
    file, folder = (
        LOADERS[part](BaseModel(str(tmp_path / "mine.safetensors"), None)),
        LOADERS[part](BaseModel(str(folder), None)),
    )
    assert same(file.half(), folder.half()) if kind == "float16" else same(file, folder)
    assert not file.training and not any(parameter.requires_grad for parameter in file.parameters())


@pytest.mark.slow
def test_at_full_size_a_file_in_half_precision_is_the_folder(tmp_path):
    write_base(tmp_path)
    file = write_checkpoint(tmp_path / BASE, tmp_path / "mine.safetensors")
    for load in LOADERS.values():
        assert same(load(BaseModel(str(file), None)), load(BaseModel(str(tmp_path / BASE), None)))


def test_the_pipeline_of_a_file_draws_what_the_folders_does(narrow, tmp_path):
    file = write_checkpoint(narrow, tmp_path / "mine.safetensors")
    pictures = []
    for path in (file, narrow):
        pipeline = load_pipeline(BaseModel(str(path), None), "float32")
        hidden = pipeline.text_encoder(torch.tensor([pipeline.tokenizer("an owl").input_ids]))[0]
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            latents = pipeline.unet(noise, 500, hidden).sample
            pictures.append(pipeline.vae.decode(latents).sample)
    assert torch.equal(*pictures)
    scheduler, tokenizer = load_noise_scheduler(BaseModel(str(file), None)), load_tokenizer(BaseModel(str(file), None))
    assert scheduler.config.beta_schedule == "scaled_linear" and scheduler.config.prediction_type == "epsilon"
    assert tokenizer("a photo of a cat").input_ids == [
        49406,
        320,
        1125,
        539,
        320,
        2368,
        49407,
    ]  # as OpenAI's CLIP has it


def test_another_vae_takes_the_place_of_the_models_own(narrow, tmp_path):
    no_vae = {key: None for key in original_layout(narrow) if key.startswith("first_stage_model.")}
    file = write_checkpoint(narrow, tmp_path / "mine.safetensors", **no_vae)
    with pytest.raises(UserError, match=re.escape(f"{file}: holds no VAE; name one as base.vae in the profile")):
        load_vae(BaseModel(str(file), None))
    alone = {key.partition(".")[2]: tensor for key, tensor in original_layout(narrow).items() if key in no_vae}
    save_file(alone, tmp_path / "vae.safetensors")
    for vae in (tmp_path / "vae.safetensors", narrow / "vae"):
        assert same(load_vae(BaseModel(str(file), None, str(vae))), load_vae(BaseModel(str(narrow), None)))
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'none.safetensors'}: a file that is no checkpoint")):
        load_vae(BaseModel(str(file), None, str(tmp_path / "none.safetensors")))
    save_file({"weight": torch.zeros(2)}, tmp_path / "no_vae.safetensors")
    with pytest.raises(UserError, match="no_vae.safetensors: no VAE, though base.vae names it"):
        load_vae(BaseModel(str(file), None, str(tmp_path / "no_vae.safetensors")))


INPUT = checkpoint_file.INPUT
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({INPUT: torch.zeros(32, 9, 3, 3)}, "an inpainting model; take the model that it was made from"),
        ({INPUT: torch.zeros(32, 8, 3, 3)}, "InstructPix2Pix; take the model"),
        ({INPUT: torch.zeros(32, 6, 3, 3)}, "a model whose UNet takes 6 channels; take the model"),
        ({INPUT: None}, "no checkpoint of Stable Diffusion (first key: cond_stage_model."),
        ({"conditioner.embedders.0.x": torch.zeros(1)}, "Stable Diffusion XL; a checkpoint of Stable Diffusion 1.x is"),
        ({"cond_stage_model.model.x": torch.zeros(1)}, "Stable Diffusion 2; a checkpoint of Stable Diffusion 1.x is"),
        ({"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)}, "Stable Diffusion 3; a checkpoint of"),
        ({"model.diffusion_model.double_blocks.0.x": torch.zeros(1)}, "Flux; a checkpoint of"),
        ({"control_model.x": torch.zeros(1)}, "a ControlNet, not a base model; a checkpoint of"),
        ({"lora_unet_x.lora_down.weight": torch.zeros(1)}, "a LoRA, not a base model; a checkpoint of"),
    ],
)
def test_other_kinds_of_files_are_named(narrow, tmp_path, changes, message):
    file = write_checkpoint(narrow, tmp_path / "mine.safetensors", **changes)
    with pytest.raises(UserError, match=re.escape(f"{file}: {message}")) as error:
        load_tokenizer(BaseModel(str(file), None))
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_its_text_encoder_or_with_other_shapes_is_refused(narrow, tmp_path):
    no_text = {key: None for key in original_layout(narrow) if key.startswith("cond_stage_model.")}
    file = write_checkpoint(narrow, tmp_path / "mine.safetensors", **no_text)
    with pytest.raises(UserError, match=re.escape(f"{file}: holds no text encoder; take the whole checkpoint")):
        load_text_encoder(BaseModel(str(file), None))
    key = "model.diffusion_model.out.2.weight"
    file = write_checkpoint(narrow, tmp_path / "mine.safetensors", **{key: torch.zeros(7, 32, 3, 3)})
    with pytest.raises(UserError, match=re.escape(f"{file}: not a whole checkpoint of Stable Diffusion 1.x (")):
        load_unet(BaseModel(str(file), None), torch.float32)


@pytest.mark.parametrize(
    "part, key",
    [
        ("unet", "model.diffusion_model.out.2.weight"),
        ("vae", "first_stage_model.quant_conv.bias"),
        ("text_encoder", TEXT),
    ],
)
def test_a_checkpoint_that_lacks_a_weight_is_refused(narrow, tmp_path, part, key):
    file = write_checkpoint(narrow, tmp_path / "mine.safetensors", **{key: None})
    with pytest.raises(UserError, match=r"not a whole checkpoint of Stable Diffusion 1.x \(.*weights are missing"):
        LOADERS[part](BaseModel(str(file), None))


def test_a_changed_file_is_another_model_wherever_it_lies(narrow, tmp_path):
    file = write_checkpoint(narrow, tmp_path / "mine.safetensors")
    key = model_key(BaseModel(str(file), None))
    moved = shutil.copy(file, tmp_path / "moved.safetensors")
    assert model_key(BaseModel(str(moved), None)) == key
    write_checkpoint(narrow, Path(moved), **{TEXT: torch.zeros(24)})
    assert model_key(BaseModel(str(moved), None)) != key
    assert model_key(BaseModel(str(file), None, str(narrow / "vae"))) != key


def test_a_profiles_file_lies_where_dvc_sees_it_change(tmp_path):
    (tmp_path / "profiles").mkdir()
    profile = Path(shutil.copy(ROOT / "profiles/sd15.yaml", tmp_path / "profiles/mine.yaml"))
    set_value(profile, "base.id", "models/mine/dream.safetensors")
    set_value(profile, "base.revision", "null")
    assert load_profile("mine", tmp_path).base == BaseModel("models/mine/dream.safetensors", None, None)
    set_value(profile, "vae", "models/other/vae.safetensors")
    with pytest.raises(UserError, match="base.vae: found models/other/vae.safetensors, allowed for a single file: mod"):
        load_profile("mine", tmp_path)
    set_value(profile, "base.id", "/home/me/dream.safetensors")
    with pytest.raises(UserError, match="base.id: found /home/me/dream.safetensors, allowed for a single file: models"):
        load_profile("mine", tmp_path)


def test_the_configs_are_those_of_stable_diffusion_15():
    """The number of parameters, as published: 859.5 M in the UNet, 83.7 M in the VAE, 123.1 M in the text encoder."""
    layout = ROOT / "tattoo_lora/diffusion/sd15"
    with torch.device("meta"):
        parts = [
            UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(layout, subfolder="unet")),
            AutoencoderKL.from_config(AutoencoderKL.load_config(layout, subfolder="vae")),
            CLIPTextModel(CLIPTextConfig.from_pretrained(layout / "text_encoder")),
        ]
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert counts == [859_520_964, 83_653_863, 123_060_480]
    assert parts[1].config.scaling_factor == 0.18215
    assert dataclasses.asdict(BaseModel("x", None)) == {"id": "x", "revision": None, "vae": None}


def test_a_captioner_is_no_checkpoint(narrow, tmp_path):
    file = write_checkpoint(narrow, tmp_path / "mine.safetensors")
    with pytest.raises(
        UserError, match=re.escape(f"{file}: a checkpoint of Stable Diffusion, where a folder or a hub")
    ):
        load_captioner(Model(str(file), None))


def test_a_released_adapter_says_how_its_checkpoint_is_loaded():
    profile = load_profile("sd15", ROOT)
    mine = dataclasses.replace(profile, base=BaseModel("models/sd15/dream.safetensors", None))
    for one, loader in ((profile, "from_pretrained"), (mine, "from_single_file")):
        text = how_to_use(one, Path("best.safetensors"), Path("best.kohya.safetensors"), "an owl", "folder")
        assert f'StableDiffusionPipeline.{loader}(\n    "{one.base.id}"' in text
        assert "is a folder of the project" not in text
