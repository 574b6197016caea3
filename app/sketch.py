"""Draw over a picture: image to image, from a sketch of the user's or from a picture that was drawn before."""

from pathlib import Path

from PIL import Image, ImageOps

from tattoo_lora.data.split import file_sha256
from tattoo_lora.errors import UserError


def sketch_sha256(path: Path) -> str:
    """Hex SHA-256 of the file; UserError if there is none."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"{path}: no sketch ({error.strerror})") from None


def fitted(path: Path, size: tuple[int, int]) -> Image.Image:
    """The whole picture on white, in the middle of `size` (width, height); UserError if it is no picture."""
    from app.tryon import read_upright  # takes a second, which pictures without a sketch need not wait for

    return ImageOps.pad(read_upright(path, "sketch"), size, Image.Resampling.LANCZOS, color="white")


def draw_over(pipeline, settings, prompt_embeds, negative_prompt_embeds) -> Image.Image:
    """The sketch of the settings with noise on it, drawn again from there; embeddings (1, T, D).

    `settings.change` is the share of the steps that are taken: 1 leaves nothing of the sketch, 0.05 nearly all.
    """
    import torch

    from tattoo_lora.diffusion.models import pick_device
    from tattoo_lora.diffusion.sampling import decode_latents, without_text_encoder

    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    sketch = fitted(Path(settings.sketch), (settings.width, settings.height))
    scheduler.set_timesteps(settings.steps)
    timesteps = scheduler.timesteps[-int(settings.steps * settings.change) :]
    with torch.inference_mode(), without_text_encoder(pipeline):
        pixel_values = pipeline.image_processor.preprocess(sketch).to(pick_device(), vae.dtype)
        latents = vae.encode(pixel_values).latent_dist.mode().float().cpu() * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(settings.seed))
        left = scheduler.alphas_cumprod[int(timesteps[0])]  # of the sketch; the rest is noise
        noisy_latents = left**0.5 * latents + (1 - left) ** 0.5 * noise
        drawn = pipeline(
            prompt_embeds=prompt_embeds.to(unet.device, unet.dtype),
            negative_prompt_embeds=negative_prompt_embeds.to(unet.device, unet.dtype),
            latents=noisy_latents.to(unet.device, unet.dtype),
            timesteps=timesteps.tolist(),
            guidance_scale=settings.guidance_scale,
            height=settings.height,
            width=settings.width,
            output_type="latent",
        ).images
        return decode_latents(pipeline, drawn)[0]
