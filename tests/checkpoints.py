"""Stable Diffusion 1 in the layout of its first release, made from a model in diffusers' layout, to test reading it."""

import re

from safetensors.torch import load_file, save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_key(key, layers=2, levels=4):
    """The original name of a UNet's key; each level has `layers` blocks."""
    for ours, theirs in UNET.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        kind, number, rest = match.groups()
        place = f"middle_block.{2 * int(number) if kind == 'resnets' else 1}"
    else:
        way, level, kind, number, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key).groups()
        level, number = int(level), int(number)
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (level + 1)}.0.{rest.replace('conv.', 'op.')}"
        if kind == "upsamplers":  # after the attention, where the level has any
            return f"output_blocks.{(layers + 1) * level + layers}.{2 if level > 0 else 1}.{rest}"
        block = (layers + 1) * level + number + (1 if way == "down" else 0)
        place = f"{'input' if way == 'down' else 'output'}_blocks.{block}.{0 if kind == 'resnets' else 1}"
    if kind == "resnets":
        name = rest.rpartition(".")[0]
        rest = rest.replace(name, RESNET[name], 1)
    return f"{place}.{rest}"


def vae_key(key, levels=4):
    """The original name of a VAE's key."""
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if match := re.match(r"(.+\.)mid_block\.attentions\.0\.(.+)\.(\w+)", key):
        key = f"{match[1]}mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def original_layout(folder):
    """The tensors of a model folder under their original names."""
    tensors = {}
    for key, tensor in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        tensors[f"model.diffusion_model.{unet_key(key)}"] = tensor
    for key, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        linear = ".attentions." in key and key.endswith("weight") and tensor.ndim == 2
        tensors[f"first_stage_model.{vae_key(key)}"] = tensor[..., None, None].contiguous() if linear else tensor
    for key, tensor in load_file(folder / "text_encoder/model.safetensors").items():
        name = key if key.startswith("text_model.") else f"text_model.{key}"
        tensors[f"cond_stage_model.transformer.{name}"] = tensor
    return tensors


def write_checkpoint(folder, path, **changes):
    """The model folder as one file; `changes` by name take a tensor's place, None takes it out."""
    tensors = original_layout(folder) | changes
    save_file({key: tensor.contiguous() for key, tensor in tensors.items() if tensor is not None}, path)
    return path
