"""Measures of the pictures: CLIP score, line art, and how near they are to the training drawings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from stages.evaluate.copies import nearest, pixel_embeds, with_mirrored
from tattoo_lora.data.drawings import Drawing
from tattoo_lora.diffusion.images import decoded_batches
from tattoo_lora.diffusion.line_art import mean_line_art, measure
from tattoo_lora.diffusion.sampling import clip_scores, embed_images, embed_texts
from tattoo_lora.params import EvaluateParams
from tattoo_lora.progress import tqdm


@dataclass(frozen=True)
class Learned:
    """N training drawings: their files, and embeddings (2N, …) of them and then of their mirror images."""

    files: list[str]
    pixel_embeds: Tensor
    clip_embeds: Tensor


def embed_drawings(
    clip: CLIPModel, processor: CLIPProcessor, folder: Path, drawings: Sequence[Drawing], batch_size: int
) -> Learned:
    """The drawings' embeddings, by pixels and by CLIP; their pictures lie in `folder`."""
    by_pixels, by_clip = ([], []), ([], [])
    progress = tqdm(total=len(drawings), unit="drawing", desc="training drawings")
    for _, images in decoded_batches(folder, drawings, batch_size):
        both = with_mirrored(images)
        for sides, embeds in ((by_pixels, pixel_embeds(both)), (by_clip, embed_images(clip, processor, both))):
            for side, half in zip(sides, embeds.chunk(2), strict=True):
                side.append(half)
        progress.update(len(images))
    progress.close()
    return Learned([d.file for d in drawings], torch.cat(sum(by_pixels, [])), torch.cat(sum(by_clip, [])))


def measure_pictures(
    clip: CLIPModel,
    processor: CLIPProcessor,
    images: Sequence[Image.Image],
    settings: Sequence[tuple[str, int]],
    learned: Learned,
    params: EvaluateParams,
    batch_size: int,
) -> tuple[dict[str, float], list[dict]]:
    """Means, and a row for each picture of the `settings` (prompt, seed)."""
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    image_embeds = torch.cat([embed_images(clip, processor, batch) for batch in batches])
    scores = clip_scores(image_embeds, embed_texts(clip, processor, [prompt for prompt, _ in settings]))
    by_pixels = nearest(pixel_embeds(images), learned.pixel_embeds)
    by_clip = nearest(image_embeds, learned.clip_embeds)
    line_art = [measure(image) for image in images]
    rows = []
    for i, (prompt, seed) in enumerate(settings):
        correlation, cosine = by_pixels.similarity[i].item(), by_clip.similarity[i].item()
        rows.append(
            {"prompt": prompt, "seed": seed, "clip_score": scores[i], **asdict(line_art[i])}
            | {"nearest_by_pixels": learned.files[by_pixels.rows[i]], "correlation": correlation}
            | {"nearest_by_clip": learned.files[by_clip.rows[i]], "cosine": cosine}
            | {"copy": int(correlation >= params.copy_correlation or cosine >= params.copy_cosine)}
        )
    means = {"clip_score": sum(scores) / len(scores), **asdict(mean_line_art(line_art))}
    return means | {"copies": sum(row["copy"] for row in rows) / len(rows)}, rows
