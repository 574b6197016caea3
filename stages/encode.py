"""Encode every preprocessed drawing with the base model's VAE, once for all variants and experiments.

Reads images/ and drawings.csv; writes latents.safetensors: for each file name the moments (mean and
log-variance) of the picture and, with `flip`, of its mirror image. Training and validation draw their
latents from these and never load the VAE's encoder. Encoded is only what is new since the last run; under
`accelerate launch` each process encodes its share and the first one writes.

    python -m stages.encode data/processed/flash --out data/processed/flash/latents.safetensors
"""

import argparse
from pathlib import Path

from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.keys import model_key, result_key
from tattoo_lora.memo import Memo
from tattoo_lora.params import load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from tattoo_lora.diffusion.images import decoded_batches, in_full_batches
from tattoo_lora.diffusion.latents import write_latents
from tattoo_lora.diffusion.models import load_vae, pick_device, process_state, use_threads
from tattoo_lora.progress import tqdm


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
    parser.add_argument("processed", type=Path, help="folder with images/ and drawings.csv")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        all_params = load_params()
        params, profile = all_params.encode, load_profile(all_params.profile)
        drawings = read_drawings(args.processed / "drawings.csv")
        images_folder, state, memo = args.processed / "images", process_state(), Memo("encode")
        batch_size = profile.inference_batch_size
        use_threads(profile.threads)
        model = model_key(profile.base_model, profile.base_revision)
        depends_on = (model, params.flip, batch_size, pick_device().type)
        keys = {d.file: result_key(__file__, *depends_on, files=[images_folder / d.file]) for d in drawings}
        new = [d for d in drawings if not memo.path(keys[d.file], ".safetensors").is_file()]
        state.wait_for_everyone()  # before one of them writes what another would then not find new
        if new:
            # float32 whatever the profile says: SD 1.5's VAE overflows in float16.
            vae = load_vae(profile.base_model, profile.base_revision).to(pick_device())
            with state.split_between_processes(new) as share:
                progress = tqdm(total=len(share), unit="drawing", desc="encode", disable=not state.is_main_process)
                for batch, images in decoded_batches(images_folder, share, batch_size):
                    pixel_values = to_pixel_values(in_full_batches(images, batch_size))
                    views = [encode_moments(vae, pixel_values)]
                    if params.flip:
                        views.append(encode_moments(vae, pixel_values.flip(3)))
                    for drawing, *of_views in zip(batch, *(view[: len(batch)] for view in views), strict=True):
                        moments = torch.stack(of_views)
                        if not moments.isfinite().all():
                            raise UserError(f"{images_folder / drawing.file}: the VAE gave no finite latents")
                        memo.write(keys[drawing.file], ".safetensors", save({"moments": moments}))
                    progress.update(len(batch))
                progress.close()
        state.wait_for_everyone()
        if state.is_main_process:
            write_latents(
                args.out, {d.file: load(memo.read(keys[d.file], ".safetensors"))["moments"] for d in drawings}
            )
            print(f"{len(drawings)} drawings, {len(new)} of them encoded, {len(drawings) - len(new)} known from before")


if __name__ == "__main__":
    main()
