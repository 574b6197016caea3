"""Pictures from fixed prompts and seeds, and how well they match by CLIP's judgement."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPProcessor

from tattoo_lora.diffusion.models import (
    assemble_pipeline,
    load_noise_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    pick_dtype,
)
from tattoo_lora.diffusion.tokenizer import load_tokenizer
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model


@dataclass(frozen=True)
class Sampler:
    """How pictures are made: DPM-Solver++'s steps, the guidance, their side in px, how many at once."""

    steps: int
    guidance_scale: float
    resolution: int
    batch_size: int


def load_pipeline(base: Model, dtype: str) -> StableDiffusionPipeline:
    """The base model, all parts on the CPU, the UNet in the dtype it is used in, as a profile names it."""
    return assemble_pipeline(
        load_vae(base),
        load_text_encoder(base),
        load_tokenizer(base),
        load_unet(base, pick_dtype(dtype, base)),
        load_noise_scheduler(base),
    )


@torch.inference_mode()
def sample_images(
    pipeline: StableDiffusionPipeline,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor,
    seeds: list[int],
    sampler: Sampler,
) -> list[Image.Image]:
    """One picture for each of prompt_embeds (B, T, D).

    negative_prompt_embeds (1, T, D) is the empty prompt's. Picture i starts from noise seeded with seeds[i] whatever
    the batch, so that the same prompt and seed give the same start for every variant.
    """
    images = []
    for start in range(0, len(prompt_embeds), sampler.batch_size):
        embeds = prompt_embeds[start : start + sampler.batch_size]
        images += draw_batch(
            pipeline,
            embeds,
            negative_prompt_embeds.expand_as(embeds),
            seeds[start : start + len(embeds)],
            sampler.steps,
            sampler.guidance_scale,
            (sampler.resolution, sampler.resolution),
        )
    return images


def refuse_blank(image: Image.Image, what: str) -> None:
    """UserError if the picture, which `what` names, has a single colour."""
    if all(low == high for low, high in image.convert("RGB").getextrema()):
        raise UserError(f"{what}: the picture is all of one colour; try another seed or less strength")


@torch.inference_mode()
def draw_batch(
    pipeline: StableDiffusionPipeline,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor,
    seeds: list[int],
    steps: int,
    guidance_scale: float,
    size: tuple[int, int],
) -> list[Image.Image]:
    """One picture of `size` (width, height) for each of prompt_embeds and negative_prompt_embeds (B, T, D).

    Raises UserError as `decode_latents` does.
    """
    unet, (width, height) = pipeline.unet, size
    shape = (1, unet.config.in_channels, height // pipeline.vae_scale_factor, width // pipeline.vae_scale_factor)
    # Drawn in float32 whatever the UNet's dtype: torch's half precision draws other numbers from the same seed.
    noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    with without_text_encoder(pipeline):
        latents = pipeline(
            prompt_embeds=prompt_embeds.to(unet.device, unet.dtype),
            negative_prompt_embeds=negative_prompt_embeds.to(unet.device, unet.dtype),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            latents=noise.to(unet.device, unet.dtype),
            output_type="latent",
        ).images
    return decode_latents(pipeline, latents)


@contextmanager
def without_text_encoder(pipeline: StableDiffusionPipeline) -> Iterator[None]:
    """diffusers casts embeddings that it is given to the dtype of a text encoder it does not use: hide it meanwhile."""
    text_encoder, pipeline.text_encoder = pipeline.text_encoder, None
    try:
        yield
    finally:
        pipeline.text_encoder = text_encoder


def decode_latents(pipeline: StableDiffusionPipeline, latents: Tensor) -> list[Image.Image]:
    """Pictures of scaled latents (B, C, h, w), decoded in the VAE's own dtype.

    diffusers decodes in the latents' dtype, the UNet's, which fails where that is half precision and the VAE float32.
    One at a time, because at 512 px each takes more than a gigabyte. UserError where a pixel is not finite: diffusers
    would draw it black without a word.
    """
    vae = pipeline.vae
    latents = latents.to(vae.dtype) / vae.config.scaling_factor
    decoded = torch.cat([vae.decode(one).sample for one in latents.split(1)])
    if not decoded.isfinite().all():
        raise UserError(
            "the picture would be all of one colour; the model's numbers went out of range: the adapter is broken or "
            f"counts too much, or the profile's dtype (here {str(pipeline.unet.dtype).removeprefix('torch.')}) is too "
            "narrow for this model"
        )
    pipeline.maybe_free_model_hooks()  # with low_memory the VAE leaves the GPU again
    return pipeline.image_processor.postprocess(decoded, output_type="pil")


@torch.inference_mode()
def embed_images(clip: CLIPModel, processor: CLIPProcessor, images: list[Image.Image]) -> Tensor:
    """CLIP's image embeddings (B, D), of length 1, float32 on the CPU."""
    pixel_values = processor.image_processor(images=images, return_tensors="pt").pixel_values
    embeds = clip.get_image_features(pixel_values=pixel_values.to(clip.device, clip.dtype)).pooler_output
    return normalize(embeds.float(), dim=-1).cpu()


@torch.inference_mode()
def embed_texts(clip: CLIPModel, processor: CLIPProcessor, texts: list[str]) -> Tensor:
    """CLIP's text embeddings (B, D), of length 1, float32 on the CPU; cut to what its text model takes."""
    inputs = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(clip.device)
    embeds = clip.get_text_features(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).pooler_output
    return normalize(embeds.float(), dim=-1).cpu()


def clip_scores(image_embeds: Tensor, text_embeds: Tensor) -> list[float]:
    """100 * max(cosine, 0) of each picture and its text (Hessel et al. 2021, as torchmetrics scales it).

    Both (B, D), of length 1.
    """
    return [100 * max(cosine, 0.0) for cosine in (image_embeds * text_embeds).sum(dim=-1).tolist()]
