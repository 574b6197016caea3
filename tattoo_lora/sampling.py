"""Pictures from fixed prompts and seeds, and how well CLIP finds them to match."""

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from tattoo_lora.params import Profile


@torch.inference_mode()
def sample_images(
    pipeline: StableDiffusionPipeline,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor,
    seed: int,
    profile: Profile,
) -> list[Image.Image]:
    """One picture for each of prompt_embeds (B, T, D); negative_prompt_embeds (1, T, D) is the empty prompt's.

    Picture i starts from noise seeded with seed + i whatever the batch, so that the same prompt and
    seed give the same start for every variant.
    """
    images = []
    unet = pipeline.unet
    for start in range(0, len(prompt_embeds), profile.inference_batch_size):
        embeds = prompt_embeds[start : start + profile.inference_batch_size].to(unet.device, unet.dtype)
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(embeds))]
        images += pipeline(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative_prompt_embeds.expand_as(embeds).to(embeds),
            num_inference_steps=profile.sampler_steps,
            guidance_scale=profile.guidance_scale,
            height=profile.resolution,
            width=profile.resolution,
            generator=generators,
        ).images
    return images


@torch.inference_mode()
def clip_scores(
    clip: CLIPModel, processor: CLIPProcessor, images: list[Image.Image], prompts: list[str]
) -> list[float]:
    """100 * max(cosine, 0) between each picture and its prompt (Hessel et al. 2021, as torchmetrics scales it)."""
    inputs = processor(text=prompts, images=images, padding=True, truncation=True, return_tensors="pt").to(clip.device)
    image_embeds = clip.get_image_features(pixel_values=inputs.pixel_values.to(clip.dtype)).pooler_output
    text_embeds = clip.get_text_features(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).pooler_output
    cosine = torch.nn.functional.cosine_similarity(image_embeds.float(), text_embeds.float())
    return [100 * max(value, 0.0) for value in cosine.tolist()]
