"""Adding, saving and loading LoRA adapters; they are saved in the two formats that other programs load."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTextModel

from tattoo_lora.diffusion.adapter_files import read_adapter
from tattoo_lora.diffusion.kohya import to_kohya
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file

TEXT_ENCODER_MODULES = ["q_proj", "k_proj", "v_proj", "out_proj"]
ATTENTION, FEED_FORWARD = ["to_q", "to_k", "to_v", "to_out.0"], ["ff.net.0.proj", "ff.net.2"]
PROJECTIONS = ["proj_in", "proj_out"]  # of each block of attention and feed-forward
SETS = {  # names for several of the UNet's layers at once
    "attention": ATTENTION,
    "self-attention": [f"attn1.{layer}" for layer in ATTENTION],
    "ff": FEED_FORWARD,
    "proj": PROJECTIONS,
    "attn-ff": ATTENTION + FEED_FORWARD,
    "all": ATTENTION + FEED_FORWARD + PROJECTIONS,
}


def layer_ranks(targets: list[str], rank: int, ranks: dict[str, int] | None) -> dict[str, int]:
    """The rank of each kind of layer in `targets`, names of layers or of SETS; `ranks` has other ranks by such names.

    UserError for a rank of layers that are not among the targets.
    """
    rank_by_layer = {layer: rank for target in targets for layer in SETS.get(target, [target])}
    for name, own_rank in (ranks or {}).items():
        layers = SETS.get(name, [name])
        if not rank_by_layer.keys() >= set(layers):
            raise UserError(
                f"params.yaml: train.ranks: found {name}, allowed: sets ({', '.join(SETS)}) and layers of the "
                f"profile's target_modules ({', '.join(targets)})"
            )
        rank_by_layer |= dict.fromkeys(layers, own_rank)
    return rank_by_layer


def plain_alpha(alpha: float, rank: int, use_rslora: bool) -> float:
    """The alpha whose alpha / rank, which every reader computes, is the adapter's scale: rsLoRA's is alpha / √rank."""
    return alpha * rank**0.5 if use_rslora else alpha


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
    if model.dtype != torch.float32:
        compute_in_half_precision(model)
    return lora_params


def compute_in_half_precision(model: nn.Module) -> None:
    """Let the adapter's float32 layers compute in the dtype of what they are given, and nothing else be cast.

    peft casts each layer's input to float32, and autocast around the whole model casts it back and norms to float32:
    with a UNet of SD 1.5 in bfloat16 958 casts a sample instead of 516, and a tenth more is kept for backward.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False
            for layers in (module.lora_A, module.lora_B):
                for layer in layers.values():
                    layer.forward = partial(in_dtype_of_input, layer.forward)


def in_dtype_of_input(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`forward(x)`, computed in x's dtype whatever that of the weights."""
    with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
        return forward(x)


def kohya_path(path: Path) -> Path:
    """Where the same adapter lies in kohya's format: best.kohya.safetensors beside best.safetensors."""
    return path.with_suffix(".kohya.safetensors")


def save_lora(
    path: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None, header: dict[str, str]
) -> None:
    """Write the adapter twice, atomically: PEFT's keys at `path` for diffusers, kohya's at `kohya_path(path)`.

    `text_encoder` is given if it has an adapter too, of the same rank and alpha. All layers have one scale. DoRA's
    magnitudes have no place in kohya's format that its readers agree on, so such an adapter is written for diffusers
    only.
    """
    config = unet.peft_config["default"]
    tensors = {f"unet.{key}": tensor for key, tensor in get_peft_model_state_dict(unet).items()}
    # Only what every peft version knows: diffusers hands it to LoraConfig as it is.
    alpha = plain_alpha(config.lora_alpha, config.r, config.use_rslora)
    adapter = {"unet.r": config.r, "unet.lora_alpha": alpha}
    if config.rank_pattern:
        alphas = {layer: alpha / config.r * rank for layer, rank in config.rank_pattern.items()}
        adapter |= {"unet.rank_pattern": config.rank_pattern, "unet.alpha_pattern": alphas}
    adapter["unet.target_modules"] = sorted(config.target_modules)
    if text_encoder is not None:
        for key, tensor in get_peft_model_state_dict(text_encoder).items():
            # The name that files have; newer transformers dropped the middle part.
            tensors[f"text_encoder.text_model.{key.removeprefix('text_model.')}"] = tensor
        text_config = text_encoder.peft_config["default"]
        adapter |= {"text_encoder.r": text_config.r, "text_encoder.lora_alpha": alpha}
        adapter["text_encoder.target_modules"] = sorted(text_config.target_modules)
    if config.use_dora:
        adapter["unet.use_dora"] = True
    tensors = {key: tensor.detach().float().cpu().contiguous() for key, tensor in sorted(tensors.items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    if not config.use_dora:
        write_safetensors(kohya_path(path), to_kohya(tensors, alpha / config.r), header)
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


def load_lora(pipeline: StableDiffusionPipeline, *paths: Path) -> None:
    """Load adapters into the pipeline's UNet and text encoder, named "0", "1", …; of several, the last is active.

    UserError if one of them cannot be loaded exactly.
    """
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: not found; run `dvc repro train`")
    # All are read before the first is loaded: PEFT wraps the layers that it changes.
    adapters = [read_adapter(path, pipeline.unet, pipeline.text_encoder) for path in paths]
    for number, tensors in enumerate(adapters):
        pipeline.load_lora_weights(tensors, adapter_name=f"{number}")
