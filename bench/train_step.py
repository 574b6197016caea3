"""Pictures per second and peak memory of the training loop itself, on whatever device torch finds.

    python -m bench.train_step                                     SD 1.5's UNet, 512 px, batch 1, 4 and 8
    python -m bench.train_step --unet models/embedded/base/unet --resolution 64 --batch-size 16

Runs the train stage's own loop over random latents and embeddings with random weights of the real architecture,
with and without gradient checkpointing. The first steps warm up and are not counted.
"""

import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel

from stages.train import MIXED_PRECISION, Denoiser, TrainingSet, train
from tattoo_lora.checkpoint import Checkpoints
from tattoo_lora.params import load_params, load_profile

WARM_UP = 2
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}


def measure(unet_config: dict, resolution: int, batch_size: int, steps: int, checkpointing: bool, dtype: str) -> dict:
    """One row: pictures per second over `steps` steps, and the peak of allocated memory (CUDA only)."""
    all_params = load_params()
    params = dataclasses.replace(all_params.train, gradient_checkpointing=checkpointing, checkpoint_every=10**9)
    profile = dataclasses.replace(
        load_profile(all_params.profile), steps=WARM_UP + steps, batch_size=batch_size, eval_every=WARM_UP,
        gradient_accumulation_steps=1, warmup_steps=0, resolution=resolution,
    )  # fmt: skip
    weight_dtype = getattr(torch, dtype)
    accelerator = Accelerator(mixed_precision=MIXED_PRECISION[weight_dtype])
    with accelerator.device:
        unet = UNet2DConditionModel.from_config(unet_config).to(weight_dtype, memory_format=torch.channels_last)
    unet.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    side = resolution // 8
    moments = torch.randn(64, 2, 2 * unet.config.in_channels, side, side, generator=generator)
    embeds = torch.randn(65, 77, unet.config.cross_attention_dim, generator=generator)
    data = TrainingSet(moments, torch.arange(1, 65), 0.18215)
    stamps = []

    def stamp(step: int) -> tuple[float, float]:
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        stamps.append((step, time.monotonic()))
        return 0.0, 0.0

    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    noise_scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    denoiser = Denoiser(unet, embeds).to(accelerator.device)
    nothing_saved = Checkpoints("bench", [])
    train(
        denoiser, noise_scheduler, data, params, profile, 0.1, accelerator, stamp, None, lambda *_: None, nothing_saved
    )
    (first, started), (last, ended) = stamps[1], stamps[-1]
    peak = torch.cuda.max_memory_allocated() / 1e9 if accelerator.device.type == "cuda" else None
    return {
        "batch_size": batch_size,
        "checkpointing": checkpointing,
        "pictures_per_second": round((last - first) * batch_size / (ended - started), 3),
        "peak_gb": None if peak is None else round(peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", type=Path, help="folder with a UNet's config.json; without it SD 1.5's")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--steps", type=int, default=20, help="counted steps")
    default = "bfloat16" if torch.cuda.is_available() else "float32"
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default=default)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    args = parser.parse_args()
    config = SD15 if args.unet is None else UNet2DConditionModel.load_config(args.unet)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    print(f"{device}, torch {torch.__version__}, {args.resolution} px, {args.dtype}")
    print("| batch | checkpointing | pictures/s | peak memory |\n|---:|---|---:|---:|", flush=True)
    rows = []
    for batch_size in args.batch_size:
        for checkpointing in (False, True):
            row = measure(config, args.resolution, batch_size, args.steps, checkpointing, args.dtype)
            rows.append(row)
            peak = "not measured" if row["peak_gb"] is None else f"{row['peak_gb']:.2f} GB"
            on = "on" if checkpointing else "off"
            print(f"| {batch_size} | {on} | {row['pictures_per_second']:.3f} | {peak} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"device": device, "torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
