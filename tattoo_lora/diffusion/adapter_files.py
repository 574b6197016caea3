"""LoRA files of every common format, read as PEFT's keys with a scale of 1.

A layer's weight W becomes W + alpha / rank * up @ down. Files differ in how they name layers (kohya's trainers,
diffusers' of three generations, PEFT) and in where alpha is: in a tensor for each layer, in the header, or in
adapter_config.json beside the file. The readers in diffusers drop alphas that differ, and keys that they do not know,
without a word; here a file is read exactly or refused.
"""

import json
import re
from pathlib import Path

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tattoo_lora.diffusion.lycoris import as_lora
from tattoo_lora.errors import UserError

# A key's layer, and which of the layer's tensors it is.
KEYS = (
    re.compile(r"(.+)\.lora_(down|up|mid)\.weight"),  # kohya
    re.compile(r"(.+)[._]lora(?:_linear_layer)?\.(down|up)\.weight"),  # diffusers
    re.compile(r"(.+)\.lora_(A|B)(?:\.\w+)?\.weight"),  # PEFT, raw files with the adapter's name in it
    re.compile(r"(.+)\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12]))"),  # LyCORIS
    re.compile(r"(.+?)(?:[._]lora(?:_linear_layer)?)?\.(alpha|lora_magnitude_vector|dora_scale)(?:\.weight)?"),
)
ROLES = {"A": "down", "B": "up", "lora_magnitude_vector": "magnitude"}
OTHER_KINDS = {  # by what stands in their keys
    "oft_": "an OFT",
    "on_input": "an (IA)3",
}
WHOLE = [  # the parts that make up a layer, each of LoKr's factors whole or as a product
    {"down", "up"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    *(
        one | other
        for one in ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
        for other in ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"})
    ),
]
# down (R, in, …), up (out, R, …) and, where the file has them, mid, alpha, magnitude, dora_scale.
Layer = dict[str, Tensor]


def read_adapter(path: Path, unet: nn.Module, text_encoder: nn.Module | None) -> dict[str, Tensor]:
    """PEFT's keys, `unet.….lora_A.weight`, for the two models' layers, float32, to be used at a scale of 1.

    UserError for a file that is no adapter, of another kind, for another model, or only partly for this one.
    """
    tensors, header = read_safetensors(path)
    for part, kind in OTHER_KINDS.items():
        if any(part in key for key in tensors):
            raise UserError(f"{path}: {kind}; only LoRA, LoCon, LoHa, LoKr and DoRA files can be used")
    modules = {f"unet.{name}": module for name, module in unet.named_modules()}
    if text_encoder is not None:
        modules |= {f"text_encoder.{name}": module for name, module in text_encoder.named_modules()}
    modules = {name: module for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)}
    layers = by_layer(path, tensors, {plain_name(name): name for name in modules})
    if not layers:
        raise UserError(f"{path}: holds no adapter")
    config = read_config(path, header)
    folded = {}
    for name, layer in layers.items():
        where = f"{path}: {name}"
        if not any(parts <= layer.keys() for parts in WHOLE):
            raise UserError(f"{where}: half of the adapter's layer is missing")
        layer = as_lora(layer)
        down, up = fold(layer, lora_scale(name, layer, config))
        down, up = fitting(where, down, up, modules[name])
        if "dora_scale" in layer:
            down, up = decomposed(where, down, up, layer["dora_scale"], modules[name].weight)
        folded |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        if "magnitude" in layer:
            folded[f"{name}.lora_magnitude_vector"] = layer["magnitude"]
    magnitudes = sum("magnitude" in layer for layer in layers.values())
    if magnitudes not in (0, len(layers)):
        raise UserError(f"{path}: a DoRA with magnitudes for {magnitudes} of {len(layers)} layers")
    for key, tensor in folded.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {key} holds numbers that are not finite; the training has diverged")
    return folded


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's tensors in float32 and its header's texts; UserError for a pickle or what is no such file."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key).float() for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if path.read_bytes()[:2] in (b"PK", b"\x80\x02"):  # torch.save's, of today and of old
            raise UserError(
                f"{path}: a pickle, which can run code when it is read; convert it to .safetensors first, "
                "see docs/troubleshooting.md"
            ) from None
        raise UserError(f"{path}: no .safetensors file ({error})") from None


def plain_name(name: str) -> str:
    """The same text for all names that formats give a layer: `unet_down_blocks_0_…`, `te_encoder_layers_0_…`."""
    name = (
        name.replace("base_model.model.", "").replace("lycoris_", "lora_").replace(".processor.", ".").replace(".", "_")
    )
    if prefix := re.match(r"(?:lora_te1?|text_encoder)_(?:text_model_)?|text_model_|(?=encoder_layers_)", name):
        name = re.sub(r"_to_(q|k|v|out)$", r"_\1_proj", name[prefix.end() :])
        return f"te_{name}"
    name = re.sub(r"^(?:lora_)?unet_", "", name)
    return "unet_" + re.sub(r"_to_out$", "_to_out_0", name)


def by_layer(path: Path, tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Layer]:
    """The tensors of each of the model's layers; `names` are the model's own, by plain_name. UserError for others."""
    layers: dict[str, Layer] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = next(filter(None, (pattern.fullmatch(key) for pattern in KEYS)), None)
        name = names.get(plain_name(match[1])) if match else None
        if name is None:
            unknown.append(key)
        else:
            layers.setdefault(name, {})[ROLES.get(match[2], match[2])] = tensor
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(tensors)} keys fit no layer (first: {unknown[0]}); "
            "was it made for another model?"
        )
    return layers


def read_config(path: Path, header: dict[str, str]) -> dict[str, dict]:
    """What PEFT and diffusers note beside the weights, for `unet` and `text_encoder`: lora_alpha, r and patterns."""
    beside = path.with_name("adapter_config.json")
    try:
        config = json.loads(header.get("lora_adapter_metadata") or beside.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        raise UserError(f"{path}: the adapter's config in its header or in {beside.name} is no JSON") from None
    models = ("unet", "text_encoder")
    by_model = {m: {k.removeprefix(f"{m}."): v for k, v in config.items() if k.startswith(f"{m}.")} for m in models}
    return by_model if any(by_model.values()) else dict.fromkeys(models, config)


def lora_scale(name: str, layer: Layer, config: dict[str, dict]) -> float:
    """alpha / rank of the layer; 1 if the file names no alpha."""
    rank = layer["down"].shape[0]
    if "alpha" in layer:
        return layer["alpha"].item() / rank
    model, _, module = name.replace("text_model.", "").partition(".")
    settings = config.get(model, {})
    if settings.get("lora_alpha") is None:
        return 1.0
    pattern = {key.removeprefix("text_model."): alpha for key, alpha in (settings.get("alpha_pattern") or {}).items()}
    alpha = pattern.get(get_pattern_key(pattern.keys(), module), settings["lora_alpha"])
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def fold(layer: Layer, scale: float) -> tuple[Tensor, Tensor]:
    """down and up without mid, the scale in up."""
    down, up = layer["down"], layer["up"] * scale
    if "mid" in layer:  # LoCon's: the kernel (R, R, h, w) between two 1 x 1 convolutions
        down = torch.einsum("rshw,si->rihw", layer["mid"], down.flatten(1))
    return down, up


def fitting(where: str, down: Tensor, up: Tensor, module: nn.Module) -> tuple[Tensor, Tensor]:
    """down and up in the shapes that PEFT gives them for the module; a 1 x 1 convolution is a linear layer."""
    rank, weight = down.shape[0], module.weight
    outer, *inner = weight.shape
    if down.numel() != rank * weight[0].numel() or up.numel() != rank * outer:
        raise UserError(
            f"{where}: made for a layer of {up.shape[0]} x {down[0].numel()}, found one of "
            f"{outer} x {weight[0].numel()}; was it made for another model?"
        )
    return down.reshape(rank, *inner).contiguous(), up.reshape(outer, rank, *(1 for _ in inner[1:])).contiguous()


def decomposed(where: str, down: Tensor, up: Tensor, dora_scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """down and up of full rank that change the weight W as a DoRA of kohya's trainers and LyCORIS does at strength 1.

    W becomes dora_scale * V / |V| with V = W + up @ down (https://arxiv.org/abs/2402.09353), where |V| is taken for
    each output, or in older files for each input. ComfyUI divides by |W| in the first case, which is not what was
    trained.
    """
    weight = weight.detach().float().cpu()
    sides = {(len(weight), 1): 0, (1, weight.shape[1]): 1}
    side = sides.get(tuple(dora_scale.shape[:2]))
    if side is None or dora_scale[0, 0].numel() != 1:
        raise UserError(f"{where}: its dora_scale is {list(dora_scale.shape)}, the weight {list(weight.shape)}")
    changed = weight + (up.flatten(1) @ down.flatten(1)).view_as(weight)
    norms = changed.transpose(0, side).flatten(1).norm(dim=1)
    norms = norms + torch.finfo(torch.float32).eps  # as LyCORIS has it
    shape = (*dora_scale.shape[:2], *(1 for _ in weight.shape[2:]))
    change = changed * (dora_scale.reshape(shape) / norms.reshape(shape)) - weight
    return full_rank(change)


def full_rank(change: Tensor) -> tuple[Tensor, Tensor]:
    """The change (out, in, …) of a weight as down and up, exactly: the smaller side's identity is one of them."""
    outer, *inner = change.shape
    if outer <= change[0].numel():
        return change.contiguous(), torch.eye(outer).reshape(outer, outer, *(1 for _ in inner[1:]))
    size = change[0].numel()
    return torch.eye(size).reshape(size, *inner), change.reshape(outer, size, *(1 for _ in inner[1:])).contiguous()
