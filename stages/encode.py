"""Encode every preprocessed drawing with the base model's VAE, once for all variants and experiments.

Reads images/ and the manifest; writes latents.safetensors: for each file name the moments (mean and
log-variance) of the picture and, with `flip`, of its mirror image. Training and validation draw their
latents from these and never load the VAE's encoder. Under `accelerate launch` each process encodes its
share and the first one writes.

    python -m stages.encode data/processed/flash --out data/processed/flash/latents.safetensors
"""

import argparse
from pathlib import Path

from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.manifest import read_manifest
from tattoo_lora.params import load_params, load_profile

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import numpy as np
import torch
from accelerate.utils import gather_object
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from tattoo_lora.images import decoded_batches
from tattoo_lora.latents import write_latents
from tattoo_lora.models import load_vae, pick_device, process_state


def to_pixel_values(images: list[Image.Image]) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode_moments(vae: AutoencoderKL, pixel_values: Tensor) -> Tensor:
    """(B, 2C, H/8, W/8): the posterior's mean and log-variance, unscaled, for pixel_values (B, 3, H, W) in [-1, 1]."""
    return vae.encode(pixel_values.to(vae.device)).latent_dist.parameters.float().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processed", type=Path, help="folder with images/ and manifest.csv")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    args = parser.parse_args()
    with one_line_errors():
        all_params = load_params()
        params, profile = all_params.encode, load_profile(all_params.profile)
        drawings = read_manifest(args.processed / "manifest.csv")
        # float32 whatever the profile says: SD 1.5's VAE overflows in float16.
        vae = load_vae(profile.base_model, profile.base_revision).to(pick_device())
        state = process_state()
        moments: dict[str, Tensor] = {}
        with state.split_between_processes(drawings) as share:
            progress = tqdm(total=len(share), unit="drawing", desc="encode", disable=not state.is_main_process)
            for batch, images in decoded_batches(args.processed / "images", share, profile.inference_batch_size):
                pixel_values = to_pixel_values(images)
                views = [encode_moments(vae, pixel_values)]
                if params.flip:
                    views.append(encode_moments(vae, pixel_values.flip(3)))
                for drawing, *of_views in zip(batch, *views, strict=True):
                    moments[drawing.file] = torch.stack(of_views)
                progress.update(len(batch))
            progress.close()
        for of_process in gather_object([moments]):
            moments |= of_process
        bad = sorted(file for file, tensor in moments.items() if not tensor.isfinite().all())
        if bad:
            raise UserError(f"{args.processed}/images/{bad[0]}: the VAE gave no finite latents ({len(bad)} in all)")
        if state.is_main_process:
            write_latents(args.out, moments)
            print(f"{len(moments)} drawings, {tuple(moments[drawings[0].file].shape)} each")


if __name__ == "__main__":
    main()
