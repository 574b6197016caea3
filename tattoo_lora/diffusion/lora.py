"""Adding, saving and loading LoRA adapters; they are saved in the two formats that other programs load."""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTextModel

from tattoo_lora.diffusion.adapter_files import read_adapter
from tattoo_lora.diffusion.kohya import to_kohya
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file

TEXT_ENCODER_MODULES = ["q_proj", "k_proj", "v_proj", "out_proj"]


def add_lora(model: UNet2DConditionModel | CLIPTextModel, config: LoraConfig, seed: int) -> list[nn.Parameter]:
    """Add a fresh adapter to the frozen model; its float32 parameters. UserError if no module matches a target.

    LoRA (https://arxiv.org/abs/2106.09685): B starts at zero, so the untrained adapter changes nothing.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for target in sorted(config.target_modules):
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(f"the profile's target_modules: no layer of the model is called {target}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # peft draws A from the global generator
        model.add_adapter(config)
    lora_params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in lora_params:
        parameter.data = parameter.data.float()  # in half precision small steps would round to nothing
    return lora_params


def kohya_path(path: Path) -> Path:
    """Where the same adapter lies in kohya's format: best.kohya.safetensors beside best.safetensors."""
    return path.with_suffix(".kohya.safetensors")


def save_lora(
    path: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None, header: dict[str, str]
) -> None:
    """Write the adapter twice, atomically: PEFT's keys at `path` for diffusers, kohya's at `kohya_path(path)`.

    `text_encoder` is given if it has an adapter too. DoRA's magnitudes have no place in kohya's format that its readers
    agree on, so such an adapter is written for diffusers only.
    """
    config = unet.peft_config["default"]
    tensors = {f"unet.{key}": tensor for key, tensor in get_peft_model_state_dict(unet).items()}
    # Only what every peft version knows: diffusers hands it to LoraConfig as it is.
    adapter = {"unet.r": config.r, "unet.lora_alpha": config.lora_alpha}
    adapter["unet.target_modules"] = sorted(config.target_modules)
    if text_encoder is not None:
        for key, tensor in get_peft_model_state_dict(text_encoder).items():
            # The name that files have; newer transformers dropped the middle part.
            tensors[f"text_encoder.text_model.{key.removeprefix('text_model.')}"] = tensor
        text_config = text_encoder.peft_config["default"]
        adapter |= {"text_encoder.r": text_config.r, "text_encoder.lora_alpha": text_config.lora_alpha}
        adapter["text_encoder.target_modules"] = sorted(text_config.target_modules)
    if config.use_dora:
        adapter["unet.use_dora"] = True
    tensors = {key: tensor.detach().float().cpu().contiguous() for key, tensor in sorted(tensors.items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    if not config.use_dora:
        write_safetensors(kohya_path(path), to_kohya(tensors, config.lora_alpha), header)
    write_safetensors(path, tensors, header | {"lora_adapter_metadata": json.dumps(adapter, sort_keys=True)})


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write the file atomically, with the metadata sorted: safetensors orders it differently from run to run.

    Adds `sshs_model_hash`, the SHA-256 of what follows the header, by which A1111 knows a file again.
    """
    raw = safetensors.torch.save(tensors)
    length = int.from_bytes(raw[:8], "little")
    body = raw[8 + length :]
    metadata = metadata | {"sshs_model_hash": hashlib.sha256(body).hexdigest()}
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(raw[8 : 8 + length])}
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with replace_file(path) as partial:
        partial.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


def load_lora(pipeline: StableDiffusionPipeline, path: Path) -> None:
    """Load the adapter into the pipeline's UNet and text encoder; UserError if that cannot be done exactly."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro train`")
    pipeline.load_lora_weights(read_adapter(path, pipeline.unet, pipeline.text_encoder))
