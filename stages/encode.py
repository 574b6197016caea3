"""Encode every preprocessed drawing with the base model's VAE, once for all variants and experiments.

Reads images/ and drawings.csv; writes latents.safetensors: for each file name the moments (mean and
log-variance) of the picture and, with `placements`, of the drawing in other places and sizes on its paper,
each with its mirror image if `flip` is true. Training draws its latents from these views, at the same cost
however many there are, and never loads the VAE's encoder; validation takes the first view. Only drawings
that are new are encoded; under `accelerate launch` each process encodes its share and the first one writes.

    python -m stages.encode data/processed/flash --out data/processed/flash/latents.safetensors
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tattoo_lora.data.drawings import Drawing, read_drawings
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.keys import model_key
from tattoo_lora.params import load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import numpy as np
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from tattoo_lora.diffusion.images import in_full_batches
from tattoo_lora.diffusion.latents import latent_factor, write_moments
from tattoo_lora.diffusion.models import load_vae, pick_device, process_state, use_threads
from tattoo_lora.diffusion.only_new import Compute, compute_new

SMALLEST = 0.75  # scale of a placed drawing; the largest is 1: the margins are narrow
IS_INK = 16  # levels of 255 by which a pixel differs from the paper


def place(image: Image.Image, number: int) -> Image.Image:
    """The drawing in placement 1, 2, … on its own paper, no nearer to the page's edge than it was; 0 is the image.

    Scale and place are drawn from the picture's content and the number: the same everywhere and for every variant.
    """
    if number == 0:
        return image
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    paper = np.median(edge, axis=0)
    rows, columns = np.nonzero((np.abs(pixels - paper) > IS_INK).any(axis=2))
    if len(rows) == 0:
        return image
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    margin = min(left, top, image.width - right, image.height - bottom)
    content = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
    draws = np.random.default_rng([content, number])
    scale = draws.uniform(SMALLEST, 1)
    width, height = (max(round(scale * side), 1) for side in (right - left, bottom - top))
    x, y = (
        int(draws.integers(margin, page - margin - side, endpoint=True))
        for page, side in ((image.width, width), (image.height, height))
    )
    page = Image.new("RGB", image.size, tuple(int(level) for level in paper))
    page.paste(image.crop((left, top, right, bottom)).resize((width, height), Image.Resampling.LANCZOS), (x, y))
    return page


def to_pixel_values(images: list[Image.Image]) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode_moments(vae: AutoencoderKL, pixel_values: Tensor) -> Tensor:
    """(B, 2C, h, w): the posterior's mean and log-variance, unscaled, for pixel_values (B, 3, H, W) in [-1, 1]."""
    return vae.encode(pixel_values.to(vae.device)).latent_dist.parameters.float().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processed", type=Path, help="folder with images/ and drawings.csv")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        all_params = load_params()
        profile = load_profile(all_params.profile)
        params = all_params.encode
        drawings = read_drawings(args.processed / "drawings.csv")
        images_folder, device, batch_size = args.processed / "images", pick_device(), profile.inference.batch_size
        use_threads(profile.inference.threads)
        model = model_key(profile.base)
        depends_on = (model, params.flip, params.placements, batch_size, device.type)

        def load() -> Compute:
            # float32 whatever the profile says: SD 1.5's VAE overflows in float16, and TF32 has 10 bits of precision.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            vae = load_vae(profile.base).to(device)
            factor = latent_factor(vae)

            def encode(images: list[Image.Image]) -> Tensor:
                """(B, views, 2C, h, w) of B images of one size."""
                views = []
                for number in range(params.placements):
                    pixel_values = to_pixel_values([place(image, number) for image in images])
                    views += [pixel_values, pixel_values.flip(3)] if params.flip else [pixel_values]
                return torch.stack([encode_moments(vae, view) for view in views], dim=1)

            def compute(batch: Sequence[Drawing], images: list[Image.Image]) -> Iterator[bytes]:
                sizes = [image.size for image in images]
                moments = {}
                for size in dict.fromkeys(sizes):
                    if any(side % factor for side in size):
                        raise UserError(
                            f"{images_folder / batch[sizes.index(size)].file}: {size[0]} x {size[1]} px; for this VAE "
                            f"both must be multiples of {factor}, so set the profile's resolution to one"
                        )
                    alike = [image for image in images if image.size == size]
                    moments[size] = iter(encode(in_full_batches(alike, batch_size)))
                for drawing, size in zip(batch, sizes, strict=False):
                    drawing_moments = next(moments[size])
                    if not drawing_moments.isfinite().all():
                        raise UserError(f"{images_folder / drawing.file}: the VAE gave no finite latents")
                    yield safetensors.torch.save({"moments": drawing_moments.contiguous()})

            return compute

        kept, new = compute_new(__file__, depends_on, images_folder, drawings, batch_size, load)
        if process_state().is_main_process:
            moments = {file: safetensors.torch.load(path.read_bytes())["moments"] for file, path in kept.items()}
            write_moments(args.out, moments)
            print(f"{len(drawings)} drawings, {new} of them encoded, {len(drawings) - new} known from before")


if __name__ == "__main__":
    main()
