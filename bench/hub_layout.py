"""Give model folders the files, names and keys that Stable Diffusion 1.5, BLIP and CLIP have on the hub.

Those were saved by the libraries of 2022: tokenizers in files for the slow classes, position_ids among the weights, the
VAE's attention under its first names, configs without what came later. Today's libraries read them by rules of their
own, so what is only ever saved and loaded by today's does not show that real models load.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SAFETY = ["stable_diffusion", "StableDiffusionSafetyChecker"]
VAE_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
LATER = {  # what configs of 2022 did not have yet, and today's defaults
    "vae": {"scaling_factor": 0.18215, "force_upcast": True, "use_quant_conv": True, "use_post_quant_conv": True}
    | {"mid_block_add_attention": True, "shift_factor": None, "latents_mean": None, "latents_std": None},
    "unet": {"use_linear_projection": False, "upcast_attention": False, "resnet_time_scale_shift": "default"}
    | {"time_embedding_type": "positional", "dual_cross_attention": False, "addition_embed_type": None},
}
WEIGHTS = ("text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model")


def base_as_on_the_hub(folder: Path) -> None:
    """Stable Diffusion 1.5: a safety checker is named, but its weights (1.2 GB) are not there: we never load them."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    _write(folder / "model_index.json", index | {"safety_checker": SAFETY, "_diffusers_version": "0.6.0"})
    _write(folder / "safety_checker/config.json", {"architectures": SAFETY[1:], "model_type": "clip"})
    _write(folder / "feature_extractor/preprocessor_config.json", {"feature_extractor_type": "CLIPFeatureExtractor"})
    _write(folder / "scheduler/scheduler_config.json", SCHEDULER)
    for part, later in LATER.items():
        config = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in later or later[key] != value}
        _write(folder / part / "config.json", kept | {"_diffusers_version": "0.6.0"})
    _old_config(folder / "text_encoder/config.json")
    _bpe_files(folder / "tokenizer")
    (folder / "tokenizer/tokenizer.json").unlink(missing_ok=True)
    _rewrite(folder / "text_encoder/model.safetensors", _text_model)
    _rewrite(folder / "vae/diffusion_pytorch_model.safetensors", _first_attention)
    for name in WEIGHTS:  # the hub has both; a link takes no room
        os.link(folder / f"{name}.safetensors", folder / f"{name}.fp16.safetensors")


def blip_as_on_the_hub(folder: Path) -> None:
    """BLIP for captions: position_ids and the tied output layer are among the weights."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        embeddings, predictions = "text_decoder.bert.embeddings", "text_decoder.cls.predictions"
        return tensors | {
            f"{embeddings}.position_ids": _positions(tensors[f"{embeddings}.position_embeddings.weight"]),
            f"{predictions}.decoder.weight": tensors[f"{embeddings}.word_embeddings.weight"].clone(),
            f"{predictions}.decoder.bias": tensors[f"{predictions}.bias"].clone(),
        }

    _rewrite(folder / "model.safetensors", change)
    _old_config(folder / "config.json")
    _preprocessor(folder, {})
    vocab = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", encoding="utf-8")


def clip_as_on_the_hub(folder: Path) -> None:
    """CLIP: position_ids of texts and patches, sizes of pictures as plain numbers."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for model in ("text_model", "vision_model"):
            weight = tensors[f"{model}.embeddings.position_embedding.weight"]
            tensors[f"{model}.embeddings.position_ids"] = _positions(weight)
        return tensors

    _rewrite(folder / "model.safetensors", change)
    _old_config(folder / "config.json")
    size = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]["crop_size"]
    side = size["height"]
    _preprocessor(folder, {"crop_size": side, "size": side, "feature_extractor_type": "CLIPFeatureExtractor"})
    _bpe_files(folder)


def _text_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in tensors.items()}
    weight = named["text_model.embeddings.position_embedding.weight"]
    return named | {"text_model.embeddings.position_ids": _positions(weight)}


def _first_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    def first_name(key: str) -> str:
        for today, first in VAE_ATTENTION.items():
            key = key.replace(today, first)
        return key

    return {first_name(key): tensor for key, tensor in tensors.items()}


def _positions(weight: Tensor) -> Tensor:
    return torch.arange(len(weight))[None]


def _rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(path)), path, {"format": "pt"})


def _old_config(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("dtype", None)
    _write(path, config | {"torch_dtype": "float32", "transformers_version": "4.22.0.dev0"})


def _preprocessor(folder: Path, changes: dict) -> None:
    """The image processor's settings in a file of their own, without those that came later."""
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))["image_processor"]
    path.unlink()
    later = ("do_convert_rgb", "do_rescale", "rescale_factor", *changes)
    kept = {key: value for key, value in settings.items() if key not in later}
    _write(folder / "preprocessor_config.json", kept | changes)


def _bpe_files(folder: Path) -> None:
    """vocab.json, merges.txt and special_tokens_map.json, made from tokenizer.json where they are not there."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token") if key in config}
    _write(folder / "special_tokens_map.json", special)
    if (folder / "vocab.json").is_file():
        return
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    _write(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
