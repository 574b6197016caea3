"""The drawings' embeddings, by pixels and by CLIP, kept by content for all evaluations and experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from stages.evaluate.copies import pixel_embeds, with_mirrored
from tattoo_lora.data.drawings import Drawing
from tattoo_lora.diffusion.images import squared
from tattoo_lora.diffusion.only_new import compute_new
from tattoo_lora.diffusion.sampling import embed_images
from tattoo_lora.keys import model_key
from tattoo_lora.params import Model


@dataclass(frozen=True)
class Embedded:
    """N drawings, and embeddings (N, 2, …) of length 1 of each one and of its mirror image."""

    drawings: Sequence[Drawing]
    pixels: Tensor
    clip: Tensor

    def only(self, *splits: str) -> "Embedded":
        """The drawings of these splits, in their order."""
        rows = [i for i, drawing in enumerate(self.drawings) if drawing.split in splits]
        return Embedded([self.drawings[i] for i in rows], self.pixels[rows], self.clip[rows])


def embed_drawings(
    clip: CLIPModel, processor: CLIPProcessor, model: Model, folder: Path, drawings: Sequence[Drawing], batch_size: int
) -> Embedded:
    """The drawings' embeddings; `clip` is `model`, the pictures lie in `folder`. Only what is new is computed."""

    def compute(batch: Sequence[Drawing], images: list[Image.Image]) -> list[bytes]:
        both = with_mirrored([squared(image) for image in images])
        pixels, by_clip = pixel_embeds(both), embed_images(clip, processor, both)
        views = [{"pixels": pixels[i :: len(images)], "clip": by_clip[i :: len(images)]} for i in range(len(batch))]
        return [safetensors.torch.save({name: view[name].contiguous() for name in view}) for view in views]

    depends_on = (model_key(model), batch_size, clip.device.type)
    kept, _ = compute_new(__file__, depends_on, folder, drawings, batch_size, lambda: compute)
    results = [safetensors.torch.load(kept[drawing.file].read_bytes()) for drawing in drawings]
    pixels, by_clip = (torch.stack([result[name] for result in results]) for name in ("pixels", "clip"))
    return Embedded(drawings, pixels, by_clip)
