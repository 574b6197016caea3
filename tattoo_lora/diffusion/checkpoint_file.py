"""Stable Diffusion 1 as one .safetensors file, as model sites hand it out: which kind it is, and loading its parts.

The original layout: the UNet's keys begin with model.diffusion_model, the VAE's with first_stage_model, the text
encoder's with cond_stage_model. Configs and the tokenizer are not in such a file; those of SD 1.5 are in sd15/, in the
hub's layout, so that no network is needed. The tokenizer's merges are OpenAI's (github.com/openai/CLIP, MIT).
"""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from tattoo_lora.errors import UserError

LAYOUT = Path(__file__).parent / "sd15"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
INPUT = "model.diffusion_model.input_blocks.0.0.weight"  # (320, channels of the input, 3, 3)
CONTEXT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"  # (320, text_dim)
VAE = "first_stage_model.decoder.conv_in.weight"
TEXT_ENCODER = "cond_stage_model.transformer."
# What stands in the keys of other models, the most telling first.
OTHERS = {
    "lora_": "a LoRA, not a base model",
    "control_model.": "a ControlNet, not a base model",
    "controlnet_": "a ControlNet, not a base model",
    "conditioner.embedders.": "Stable Diffusion XL",
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "Flux",
    "cond_stage_model.model.": "Stable Diffusion 2",
}
# By channels of the UNet's input.
INPUTS = {9: "an inpainting model", 8: "InstructPix2Pix", 5: "a depth-to-image model"}


def is_checkpoint(model_id: str) -> bool:
    """Whether the id names a single file, by its ending: a pickle, which is refused later, or .safetensors."""
    return model_id.endswith((".safetensors", *PICKLES))


def config_folder(model_id: str) -> str:
    """Where the model's configs and tokenizer are: the folder or hub id itself, or SD 1.5's for a single file."""
    return str(LAYOUT) if is_checkpoint(model_id) else model_id


def refuse_others(model_id: str, root: Path, needs_vae: bool) -> None:
    """UserError, which says what the file is, unless it is a whole Stable Diffusion 1 in safetensors."""
    path = root / model_id
    if path.suffix in PICKLES:
        raise UserError(
            f"{model_id}: a pickle, which is never read because it may run any code; take the model as .safetensors or "
            "as a folder in diffusers' layout"
        )
    if not path.is_file():
        raise UserError(f"{model_id}: no such checkpoint file")
    shapes = read_shapes(path)
    for part, kind in OTHERS.items():
        if any(part in key for key in shapes):
            raise UserError(f"{model_id}: {kind}; a checkpoint of Stable Diffusion 1.x is needed")
    if INPUT not in shapes or CONTEXT not in shapes:
        raise UserError(f"{model_id}: no checkpoint of Stable Diffusion (first key: {min(shapes, default='none')})")
    channels = shapes[INPUT][1]
    if channels != 4:
        kind = INPUTS.get(channels, f"a model whose UNet takes {channels} channels")
        raise UserError(f"{model_id}: {kind}; take the model that it was made from")
    if not any(key.startswith(TEXT_ENCODER) for key in shapes):
        raise UserError(f"{model_id}: holds no text encoder; take the whole checkpoint")
    if needs_vae and VAE not in shapes:
        raise UserError(f"{model_id}: holds no VAE; name one as base.vae in the profile")


def read_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor, from the file's header alone."""
    try:
        with safe_open(path, "numpy") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: a file that is no checkpoint ({error}); a model is .safetensors or a folder"
        ) from error


def load_part(path: str, part: str, dtype):
    """vae, unet or text_encoder of a checkpoint, converted by diffusers."""
    from diffusers import StableDiffusionPipeline

    others = {"vae", "unet", "text_encoder", "tokenizer", "scheduler"} - {part}
    pipeline = StableDiffusionPipeline.from_single_file(
        path, config=str(LAYOUT), local_files_only=True, torch_dtype=dtype, **dict.fromkeys(others)
    )
    return getattr(pipeline, part)


def load_vae_file(path: str, dtype):
    """The VAE of a file that holds it alone or within a checkpoint."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_single_file(
        path, config=str(LAYOUT), subfolder="vae", local_files_only=True, torch_dtype=dtype
    )
