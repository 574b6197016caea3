"""Pictures, latents and captions: in batches as the stages make them, and one at a time."""

from collections.abc import Callable

import numpy as np
from diffusers import PNDMScheduler
from PIL import Image

from bench.timing import Case, timed
from stages.encode import encode_moments, to_pixel_values
from tattoo_lora.diffusion.captioners import caption_images, load_captioner
from tattoo_lora.diffusion.models import load_vae, pick_device, pick_dtype, place
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import Sampler, load_pipeline, sample_images
from tattoo_lora.params import Params, Profile


def pictures(profile: Profile, count: int) -> list[Image.Image]:
    """Noise, RGB at the profile's resolution."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, profile.resolution, profile.resolution, 3), np.uint8)
    return [Image.fromarray(picture) for picture in pixels]


def sample(profile: Profile, params: Params, count: int) -> dict[str, Case]:
    """The example of every model card (one prompt at a time, PNDM, 50 steps), and ours."""
    pipeline = load_pipeline(profile.base, profile.inference.dtype)
    unet = pipeline.unet
    prompts = [f"{prompt}, number {i}" for i, prompt in enumerate(params.evaluate.prompts * count)][:count]
    embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["", *prompts])
    place(pipeline, pick_device(), profile.sampling.low_memory)
    sampling = profile.sampling
    sampler = Sampler(sampling.sampler_steps, sampling.guidance_scale, profile.resolution, profile.inference.batch_size)
    ours, card = pipeline.scheduler, PNDMScheduler.from_config(pipeline.scheduler.config, skip_prk_steps=True)

    def in_one_batch() -> None:
        pipeline.scheduler = ours
        sample_images(pipeline, embeds[1:], embeds[:1], list(range(count)), sampler)

    def one_at_a_time() -> None:
        pipeline.scheduler = ours
        for i in range(count):
            sample_images(pipeline, embeds[1 + i : 2 + i], embeds[:1], [i], sampler)

    def as_on_the_card() -> None:
        pipeline.scheduler = card
        for i in range(count):
            pipeline(
                prompt_embeds=embeds[1 + i : 2 + i].to(unet.device, unet.dtype),
                negative_prompt_embeds=embeds[:1].to(unet.device, unet.dtype),
                height=profile.resolution,
                width=profile.resolution,
            )

    return {
        "ours": timed(in_one_batch, count),
        "one prompt at a time": timed(one_at_a_time, count),
        "reference": timed(as_on_the_card, count),
    }


def batched_and_single(profile: Profile, count: int, work: Callable[[list[Image.Image]], object]) -> dict[str, Case]:
    """`work` on pictures, in the profile's batches and one at a time."""
    images = pictures(profile, count)

    def in_batches(size: int) -> None:
        for start in range(0, count, size):
            work(images[start : start + size])

    return {
        "ours": timed(lambda: in_batches(profile.inference.batch_size), count),
        "reference": timed(lambda: in_batches(1), count),
    }


def encode(profile: Profile, params: Params, count: int) -> dict[str, Case]:
    """Moments of pictures."""
    vae = load_vae(profile.base).to(pick_device())
    return batched_and_single(profile, count, lambda images: encode_moments(vae, to_pixel_values(images)))


def caption(profile: Profile, params: Params, count: int) -> dict[str, Case]:
    """Captions of pictures."""
    model, processor = load_captioner(profile.captioner)
    model.to(pick_device(), pick_dtype(profile.inference.dtype, profile.captioner))
    return batched_and_single(
        profile, count, lambda images: caption_images(model, processor, images, params.caption_blip)
    )
