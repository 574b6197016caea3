"""What is measured during a training: val_loss, clip_score and a picture of each of the fixed prompts."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from stages.train.memory import free_memory
from tattoo_lora.diffusion.models import measuring, on_device
from tattoo_lora.diffusion.sampling import Sampler, clip_scores, embed_images, embed_texts, sample_images
from tattoo_lora.diffusion.validation import timestep_grid, validation_losses
from tattoo_lora.errors import is_out_of_memory
from tattoo_lora.files import replace_file
from tattoo_lora.params import TrainParams
from tattoo_lora.progress import tqdm


@dataclass
class Evaluator:
    """Measures the live adapter in `pipeline`, whose UNet is on the device it trains on.

    latents (C, h, w) of N drawings, scaled, are those of `val_count` val drawings and then of as many training
    drawings, or as there are; `embed_texts_now()` gives their captions' embeddings (N, T, D), the prompts' (P, T, D)
    and that of the empty text (1, T, D), as the text encoder has them by then.
    """

    pipeline: StableDiffusionPipeline
    noise_scheduler: DDPMScheduler
    clip: CLIPModel
    processor: CLIPProcessor
    latents: list[Tensor]
    val_count: int
    embed_texts_now: Callable[[], tuple[Tensor, Tensor, Tensor]]
    params: TrainParams
    sampler: Sampler
    samples: Path
    seconds: float = 0.0  # spent so far

    def measure(self, step: int) -> tuple[float, float]:
        """val_loss and clip_score; both are nan if a loss is not finite.

        If memory runs out, fewer are computed at once from then on: a training of hours does not end for that.

        The pictures go to eval_stepXXXX/, and to losses.json there val_loss and seen_loss, that of training drawings.
        """
        started = time.monotonic()
        try:
            return self._measure_in_memory(step)
        finally:
            self.seconds += time.monotonic() - started

    def _measure_in_memory(self, step: int) -> tuple[float, float]:
        while True:
            try:
                return self._measure(step)
            except RuntimeError as error:
                if self.sampler.batch_size == 1 or not is_out_of_memory(error):
                    raise
            self.sampler = replace(self.sampler, batch_size=self.sampler.batch_size // 2)
            tqdm.write(f"out of memory in an evaluation: going on with {self.sampler.batch_size} at once in it")
            free_memory()

    def _measure(self, step: int) -> tuple[float, float]:
        params, unet = self.params, self.pipeline.unet
        embeds, prompt_embeds, empty_embed = self.embed_texts_now()
        timesteps = timestep_grid(params.val_timesteps, self.noise_scheduler.config.num_train_timesteps)
        with measuring(unet):
            batch_size = self.sampler.batch_size
            losses = validation_losses(unet, self.noise_scheduler, self.latents, embeds, timesteps, batch_size)
        if not losses.isfinite().all():
            return math.nan, math.nan
        seeds = [params.seed + i for i in range(len(params.prompts))]
        with on_device(unet.device, self.pipeline.vae):  # and CLIP once it is away: small GPUs do not hold both
            images = sample_images(self.pipeline, prompt_embeds, empty_embed, seeds, self.sampler)
        with on_device(unet.device, self.clip):
            text_embeds = embed_texts(self.clip, self.processor, params.prompts)
            scores = clip_scores(embed_images(self.clip, self.processor, images), text_embeds)
        folder = self.samples / f"eval_step{step:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            with replace_file(folder / f"prompt{i:02d}.png") as partial:
                image.save(partial, "PNG")
        means = {
            "val_loss": losses[: self.val_count].mean().item(),
            "seen_loss": losses[self.val_count :].mean().item(),
        }
        with replace_file(folder / "losses.json") as partial:
            partial.write_text(
                json.dumps({name: round(mean, 6) for name, mean in means.items()}), encoding="utf-8", newline="\n"
            )
        return means["val_loss"], sum(scores) / len(scores)
