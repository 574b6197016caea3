"""Make LoRA files smaller, merge several into one, or take the difference of two models as a LoRA.

    python -m app.adapter resize flash.safetensors --rank 4 --out small.safetensors
    python -m app.adapter resize flash.safetensors --energy 0.95 --out small.safetensors
    python -m app.adapter merge ink.safetensors:0.7 dots.safetensors:0.4 --out both.safetensors
    python -m app.adapter merge ink.safetensors dots.safetensors --rank 8 --out both.safetensors
    python -m app.adapter extract models/dream/dream.safetensors --rank 16 --out dream-lora.safetensors

Reads what app.generate reads and writes what train writes: the file for diffusers, and kohya's beside it. --rank keeps
the largest singular values of each layer, --energy as many as hold that share of the sum of their squares. The error is
how much of the change is lost: the norm of what is missing, in percent of the norm of the whole.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from app.checks import check, writable
from app.generate import STRENGTH, split_strength
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.params import Model, Range, load_params, load_profile

if TYPE_CHECKING:
    from torch import Tensor

    Layers = dict[str, tuple[Tensor, Tensor]]  # down (R, in, …) and up (out, R, …) by the layer's name, scale 1

RANK, ENERGY = Range(1, 4096), Range(0.01, 1)


def read_layers(path: Path, base: Model) -> tuple["Layers", dict[str, str]]:
    """The file's layers and header; UserError for what is no LoRA for the base model."""
    import torch

    from tattoo_lora.diffusion.adapter_files import read_adapter, read_safetensors
    from tattoo_lora.diffusion.models import load_text_encoder, load_unet

    if not path.is_file():
        raise UserError(f"{path}: no such adapter")
    stored, header = read_safetensors(path)
    if any("dora_scale" in key for key in stored):  # their change depends on the weights
        models = load_unet(base, torch.float32), load_text_encoder(base)
    else:
        models = empty_models(base)
    tensors = read_adapter(path, *models)
    names = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
    if len(tensors) > 2 * len(names):
        raise UserError(f"{path}: a DoRA of PEFT's, which app.generate alone can use; kohya's are converted")
    return {name: (tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]) for name in names}, header


def empty_models(base: Model):
    """The base's UNet and text encoder without weights: a file's layers have to fit their names and shapes."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tattoo_lora.diffusion.checkpoint_file import config_folder
    from tattoo_lora.diffusion.hub import finding

    folder, options = config_folder(base.id), {"revision": base.revision}
    with finding(base), torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet", **options))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder", **options))
    return unet, text_encoder


def shrink(down: "Tensor", up: "Tensor", rank: int | None, energy: float | None) -> tuple["Tensor", "Tensor", float]:
    """The nearest down and up of a smaller rank, and the sum of squares that they lack (Eckart and Young 1936)."""
    import torch

    # The product's singular values are those of the small matrix between two orthogonal ones.
    q_up, r_up = torch.linalg.qr(up.flatten(1).double())
    q_down, r_down = torch.linalg.qr(down.flatten(1).double().T)
    u, values, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    squares = values**2
    kept = len(values) if rank is None else min(rank, len(values))
    if energy is not None:
        enough = squares.cumsum(0) >= (energy - 1e-12) * squares.sum()
        kept = min(kept, int(enough.int().argmax()) + 1)
    root = values[:kept].sqrt()
    up = ((q_up @ u[:, :kept]) * root).float().reshape(len(up), kept, *up.shape[2:])
    down = (root[:, None] * (vh[:kept] @ q_down.T)).float().reshape(kept, *down.shape[1:])
    return down, up, squares[kept:].sum().item()


def resize(layers: "Layers", rank: int | None, energy: float | None) -> tuple["Layers", float, float]:
    """The layers at their new ranks, and the sums of squares of what is lost and of the whole change."""
    from tattoo_lora.progress import tqdm

    smaller, lost, whole = {}, 0.0, 0.0
    for name, (down, up) in tqdm(layers.items(), unit="layer"):
        *smaller[name], missing = shrink(down, up, rank, energy)
        lost += missing
        # |BA|² = trace(AAᵀBᵀB), without the large product.
        a, b = down.flatten(1).double(), up.flatten(1).double()
        whole += ((a @ a.T) * (b.T @ b)).sum().item()
    return smaller, lost, whole


def merge(parts: list[tuple["Layers", float]]) -> "Layers":
    """The sum of some files' changes, each times its strength: their ranks stand side by side, so it is exact."""
    import torch

    merged = {}
    for name in sorted({name for layers, _ in parts for name in layers}):
        factors = [(*layers[name], strength) for layers, strength in parts if name in layers]
        down = torch.cat([down for down, _, _ in factors])
        merged[name] = down, torch.cat([up * strength for _, up, strength in factors], dim=1)
    return merged


def difference(base: Model, other: Model, layer_set: str) -> tuple["Layers", float]:
    """What the other UNet and text encoder have more than the base's in a set of layers; the sum of squares outside.

    UserError if the two are of different shapes or the same.
    """
    import torch

    from tattoo_lora.diffusion.adapter_files import full_rank
    from tattoo_lora.diffusion.lora import SETS, TEXT_ENCODER_MODULES
    from tattoo_lora.diffusion.models import load_text_encoder, load_unet

    text_layers = TEXT_ENCODER_MODULES if layer_set == "attention" else [*TEXT_ENCODER_MODULES, "fc1", "fc2"]
    parts = {
        "unet": ("UNet", lambda model: load_unet(model, torch.float32), SETS[layer_set]),
        "text_encoder": ("text encoder", load_text_encoder, text_layers),
    }
    layers, outside = {}, 0.0
    for part, (title, load, names) in parts.items():
        before, after = (dict(load(model).named_parameters()) for model in (base, other))
        shapes = [{key: tensor.shape for key, tensor in weights.items()} for weights in (before, after)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{other.id}: its {title} has other layers than that of {base.id}")
        endings = tuple(f".{layer}.weight" for layer in names)
        for key in before:
            change = after.pop(key) - before[key]
            if not key.endswith(endings):
                outside += change.double().square().sum().item()
            elif change.any():
                layers[f"{part}.{key.removesuffix('.weight')}"] = full_rank(change)
    if not layers:
        raise UserError(f"{other.id}: the same as {base.id} in all layers of {layer_set}")
    return layers, outside


def write(layers: "Layers", header: dict[str, str], path: Path) -> None:
    """Both files; each layer has its own rank, and alpha is the rank, so that every reader takes a scale of 1."""
    from tattoo_lora.diffusion.kohya import to_kohya
    from tattoo_lora.diffusion.lora import kohya_path, write_safetensors

    largest = max(len(down) for down, _ in layers.values())
    tensors, config = {}, {}
    for model in ("unet", "text_encoder"):
        own = {n.partition(".")[2]: len(down) for n, (down, _) in layers.items() if n.startswith(f"{model}.")}
        if own:
            settings = {"r": largest, "lora_alpha": largest, "rank_pattern": own, "alpha_pattern": own}
            settings["target_modules"] = sorted(own)
            config |= {f"{model}.{key}": value for key, value in settings.items()}
    for name, (down, up) in layers.items():
        name = name.replace("text_encoder.", "text_encoder.text_model.")  # the name that files have
        tensors |= {f"{name}.lora_A.weight": down.contiguous(), f"{name}.lora_B.weight": up.contiguous()}
    header = header | {"ss_network_module": "networks.lora", "ss_network_dim": str(largest)}
    header["ss_network_alpha"] = str(largest)
    write_safetensors(kohya_path(path), to_kohya(tensors, 1.0), header)
    write_safetensors(path, tensors, header | {"lora_adapter_metadata": json.dumps(config, sort_keys=True)})


def parse_args() -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--rank", type=int, help="at most so many ranks in each layer")
    shared.add_argument("--energy", type=float, metavar="SHARE", help="the share to keep in each layer, 0.95 perhaps")
    shared.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file, .safetensors")
    shared.add_argument("--profile", help="a file under profiles/, for its base model; default: that of params.yaml")
    parser = argparse.ArgumentParser(
        prog="python -m app.adapter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("resize", parents=[shared], help="fewer ranks")
    command.add_argument("file", type=Path)
    command = commands.add_parser("merge", parents=[shared], help="several files in one, exactly without --rank")
    command.add_argument("files", nargs="+", metavar="FILE[:STRENGTH]")
    command = commands.add_parser("extract", parents=[shared], help="a model's UNet and text encoder less the base's")
    command.add_argument("model", help="a checkpoint, a folder in diffusers' layout, or an id of the hub (id@revision)")
    command.add_argument("--layers", choices=["attention", "attn-ff", "all"], default="all", help="default: all")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    from tattoo_lora.diffusion.lora import kohya_path

    for option, value, allowed in (("--rank", args.rank, RANK), ("--energy", args.energy, ENERGY)):
        if value is not None:
            check(option, value, allowed)
    if args.command != "merge" and args.rank is None and args.energy is None:
        raise UserError(f"{args.command}: give --rank or --energy")
    if args.out.suffix != ".safetensors" or args.out.exists() or kohya_path(args.out).exists():
        raise UserError(f"--out {args.out}: give the name of a new .safetensors file")
    writable(args.out.parent)
    base = load_profile(args.profile or load_params().profile).base
    header, outside = {}, 0.0
    if args.command == "resize":
        layers, header = read_layers(args.file, base)
        header.pop("lora_adapter_metadata", None)  # its ranks were others
    elif args.command == "merge":
        chosen = [split_strength(text) for text in args.files]
        for file, strength in chosen:
            check(f"{file}: strength", strength, STRENGTH)
        layers = merge([(read_layers(Path(file), base)[0], strength) for file, strength in chosen])
    else:
        model_id, _, revision = args.model.partition("@")
        layers, outside = difference(base, Model(model_id, revision or None), args.layers)
    lost = whole = 0.0
    if args.rank is not None or args.energy is not None:
        layers, lost, whole = resize(layers, args.rank, args.energy)
    write(layers, header, args.out)
    error = 100 * ((lost + outside) / (whole + outside)) ** 0.5 if whole + outside else 0.0
    ranks = Counter(len(down) for down, _ in layers.values())
    said = f"{len(layers)} layers of rank {min(ranks)} to {max(ranks)}, error {error:.2g}%"
    if outside:
        share = 100 * (outside / (whole + outside)) ** 0.5
        said += f" ({share:.2g}% in weights that are not in these layers)"
    print(f"{args.out}: {said}; {kohya_path(args.out)} is the same for ComfyUI and A1111")


def main() -> None:
    args = parse_args()
    with one_line_errors():
        run(args)


if __name__ == "__main__":
    main()
