"""Measures of the pictures: CLIP score, line art, style, and how near they are to the training drawings."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from stages.evaluate.copies import nearest, pixel_embeds
from stages.evaluate.embeddings import Embedded
from stages.evaluate.style import style_distances, vendi_score
from tattoo_lora.diffusion.line_art import mean_line_art, measure
from tattoo_lora.diffusion.sampling import clip_scores, embed_images, embed_texts
from tattoo_lora.params import EvaluateParams


def embed_pictures(clip: CLIPModel, processor: CLIPProcessor, images: Sequence[Image.Image], batch_size: int) -> Tensor:
    """CLIP's embeddings (P, D), of length 1, of any number of pictures."""
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return torch.cat([embed_images(clip, processor, batch) for batch in batches])


def measure_pictures(
    clip: CLIPModel,
    processor: CLIPProcessor,
    images: Sequence[Image.Image],
    settings: Sequence[tuple[str, int]],
    embedded: Embedded,
    params: EvaluateParams,
    batch_size: int,
) -> tuple[dict[str, float], list[dict]]:
    """Means, and a row for each picture of the `settings` (prompt, seed), held against the drawings."""
    image_embeds = embed_pictures(clip, processor, images, batch_size)
    prompts = [prompt for prompt, _ in settings]
    scores = clip_scores(image_embeds, embed_texts(clip, processor, prompts))
    test = embedded.only("test").clip[:, 0]  # not their mirror images
    distances, cosines = style_distances(image_embeds, test), image_embeds @ test.mean(dim=0)
    diversity = {prompt: vendi_score(image_embeds[[p == prompt for p in prompts]]) for prompt in prompts}
    line_art = [measure(image) for image in images]
    rows = [
        {"prompt": prompt, "seed": seed, "clip_score": scores[i]}
        | {"style": distances[i].item(), "style_cosine": cosines[i].item(), "diversity": diversity[prompt]}
        | asdict(line_art[i])
        for i, (prompt, seed) in enumerate(settings)
    ]
    near = nearness(pixel_embeds(images), image_embeds, embedded.only("train"), params)
    scored = ("clip_score", "style", "style_cosine", "diversity")
    means = {name: sum(row[name] for row in rows) / len(rows) for name in scored} | asdict(mean_line_art(line_art))
    means["copies"] = sum(row["copy"] for row in near) / len(near)
    return means, [row | nearest_row for row, nearest_row in zip(rows, near, strict=True)]


def control_rows(embedded: Embedded, params: EvaluateParams) -> list[dict]:
    """The same search for copies among the held-out drawings, which are none: what is flagged is a false alarm."""
    held_out = embedded.only("val", "test")
    near = nearness(held_out.pixels[:, 0], held_out.clip[:, 0], embedded.only("train"), params)
    return [{"file": drawing.file} | row for drawing, row in zip(held_out.drawings, near, strict=True)]


def nearness(pixels: Tensor, clip: Tensor, learned: Embedded, params: EvaluateParams) -> list[dict]:
    """For pictures' embeddings (P, …) the nearest training drawing by either, how near it is, and whether too near."""
    by_pixels, by_clip = nearest(pixels, learned.pixels), nearest(clip, learned.clip)
    rows = []
    for i in range(len(pixels)):
        correlation, cosine = by_pixels.similarity[i].item(), by_clip.similarity[i].item()
        rows.append(
            {"nearest_by_pixels": learned.drawings[by_pixels.rows[i]].file, "correlation": correlation}
            | {"nearest_by_clip": learned.drawings[by_clip.rows[i]].file, "cosine": cosine}
            | {"copy": int(correlation >= params.copy_correlation or cosine >= params.copy_cosine)}
        )
    return rows
