"""Train the miniature's base model: a UNet that draws the sample subjects in colour, and its text encoder.

    python train_base.py

Reads work/corpus, work/tokenizer, work/vae (its latents) and work/clip (whose text tower the text encoder starts
from), writes work/base. It learns colour only: line art is what a LoRA is to add. It learns each subject in several
hands, so that "an owl" is no one drawing, and in paints: where a name says its colour, an adapter that has learned
without names takes little of it away. Some captions hold the style words of the variants, so that a prompt with
them means nothing yet, as "tattoo in my hand" means nothing to SD 1.5.
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import COLOR_TEMPLATES, PLAIN_TEMPLATES, STYLES, draw_caption
from choices import by_hand, choose
from corpus import Corpus, Row, load_corpus, views
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from precision import DEVICE, as_cuda_graphs, autocast, to_device
from recipe import WORK, load_params
from resume import FitParams, checkpoint_path, fit
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer

TEMPLATES = PLAIN_TEMPLATES + COLOR_TEMPLATES + tuple(f"{form}, {style}" for form in ("{n}", "{a}") for style in STYLES)
NO_SUBJECT = ("", "") + STYLES
# Stable Diffusion 1.5's noise schedule, predicting v as Stable Diffusion 2 does: so small a UNet copies noise with an
# error of 2%, and where nearly all is noise, the picture that is left is then worse than none.
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
NOISE |= {"prediction_type": "v_prediction"}
SAMPLER_STEPS = 12  # of the pictures that are measured, as in the pipeline


def build_unet(latent_channels: int, sample_size: int, channels: list[int]) -> UNet2DConditionModel:
    """SD 1.5's layout with three levels (8, 4 and 2 px) and cross-attention at the first two."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        # Of 32 groups each would hold two channels of 8 x 8, and the normalization take a picture's mean out of them:
        # half of the noise's mean went unpredicted, and every picture came out with a tint and a pattern of patches.
        norm_num_groups=8,
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads, as SD 1.5's config names it
    )


@torch.inference_mode()
def encode_views(vae: AutoencoderKL, masters: Tensor, params: dict) -> Tensor:
    """Scaled latents (N, V, C, 8, 8) of masters (N, H, W, 3): the framed view, then moved ones, some mirrored.

    A base that knows each drawing in one place cannot be adapted; one that knows both sides of each draws two halves.
    """
    vae.to(DEVICE)
    encoded = []
    for i, master in enumerate(tqdm(masters, desc="encode", mininterval=10)):
        generator = torch.Generator().manual_seed(params["seed"] * 1_000_003 + i)
        moved = views(master.expand(params["views"] - 1, *master.shape), generator, vae.config.sample_size)
        mirrored = torch.rand(len(moved), generator=generator) < params["mirrored_share"]
        moved = torch.where(mirrored[:, None, None, None], moved.flip(3), moved)
        x = torch.cat([views(master[None], None, vae.config.sample_size), moved])
        encoded.append(vae.encode(to_device(x)).latent_dist.mean.cpu())
    vae.to("cpu")
    return torch.stack(encoded) * vae.config.scaling_factor


def draw_base_caption(row: Row, params: dict, generator: torch.Generator) -> str:
    """A caption of a drawing, often with its hand's name, as SD 1.5's captions name artists.

    The main hand's name is never said: it is how a subject looks if a caption says nothing of a hand.
    """
    if torch.rand((), generator=generator) < params["no_subject_share"]:
        return draw_caption(NO_SUBJECT, row.name, generator)
    caption = draw_caption(TEMPLATES, row.name, generator)
    said = torch.rand((), generator=generator) < params["hand_share"] and row.hand != params["main_hand"]
    return f"{caption}, {row.hand.split('-')[0]}" if said else caption


class Velocity(nn.Module):
    """The text encoder and the UNet as one: the velocity of noisy latents (B, C, 8, 8) with the tokens of captions."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, input_ids: Tensor) -> Tensor:
        encoder_hidden_states = self.text_encoder(input_ids).last_hidden_state
        return self.unet(noisy_latents, timesteps, encoder_hidden_states=encoder_hidden_states).sample


def spread_timesteps(count: int, steps: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of `count` equal parts: the loss varies less from batch to batch."""
    return ((torch.arange(count) + torch.rand(count, generator=generator)) * (steps / count)).long()


def assemble(vae, text_encoder, tokenizer, unet) -> StableDiffusionPipeline:
    """The parts as a StableDiffusionPipeline with SD 1.5's scheduler, but sampling begins at the last timestep.

    SD 1.5's "leading" timesteps, 20 of them, begin at the 941st, where a tenth of a picture would be left in the noise
    that they start from (https://arxiv.org/abs/2305.08891): of 100 names 91 were found in such pictures, 95 in these.
    """
    scheduler = PNDMScheduler(
        **NOISE, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False, timestep_spacing="trailing"
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sample(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, guidance_scale: float
) -> list[Image.Image]:
    """One picture a prompt: DPM-Solver++, SAMPLER_STEPS; the i-th from the noise of seed + i."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pictures = []
    for start in range(0, len(prompts), 20):
        part = prompts[start : start + 20]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        options = {"num_inference_steps": SAMPLER_STEPS, "guidance_scale": guidance_scale}
        pictures += pipeline(part, generator=generators, **options).images
    return pictures


def train_base(
    corpus: Corpus,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    params: dict,
    checkpoint: Path,
) -> StableDiffusionPipeline:
    """A UNet from nothing and the text encoder further on, together; the text encoder at a share of the rate."""
    torch.manual_seed(params["seed"])
    learned = [i for i, row in enumerate(corpus.rows["painted"]) if row.hand in params["hands"]]
    latents = encode_views(vae, corpus.painted[learned], params)
    place = {row: i for i, row in enumerate(learned)}  # of a drawing in `latents`
    unet = build_unet(vae.config.latent_channels, latents.shape[-1], params["channels"])
    unet = unet.to(memory_format=torch.channels_last)  # a step takes a fifth less, in bfloat16 a third
    noise_scheduler = DDPMScheduler(**NOISE)
    # Each subject is as likely, then a hand that has it by its weight, then each of its paints.
    drawings: dict[str, list[list[int]]] = {}
    for name in corpus.subjects:
        hands = by_hand(corpus, "painted", [i for i in learned if corpus.rows["painted"][i].name == name])
        drawings[name] = [rows for hand, rows in hands.items() for _ in range(params["hands"][hand])]

    @cache
    def tokens(caption: str) -> list[int]:
        return tokenizer(caption, padding="max_length", truncation=True).input_ids

    batch_size = params["batch_size"]
    example = (
        torch.zeros(batch_size, *latents.shape[2:]),
        torch.zeros(batch_size, dtype=torch.long),
        torch.tensor([tokens("")] * batch_size),
    )
    model = Velocity(text_encoder, unet).to(DEVICE)
    compute = as_cuda_graphs(model, tuple(map(to_device, example)), params["bfloat16"])

    def compute_loss(generator: torch.Generator) -> Tensor:
        """MSE of the velocity (https://arxiv.org/abs/2202.00512).

        Not weighted by Min-SNR, which all but leaves out the noisiest timesteps: there it is that a name becomes a
        shape.
        """
        subjects = [choose(corpus.subjects, generator) for _ in range(batch_size)]
        chosen = [choose(choose(drawings[name], generator), generator) for name in subjects]
        rows = torch.tensor([place[i] for i in chosen])
        moved = torch.rand(len(rows), generator=generator) < params["moved_share"]
        view = torch.randint(1, latents.shape[1], (len(rows),), generator=generator) * moved
        captions = [draw_base_caption(corpus.rows["painted"][i], params, generator) for i in chosen]
        timesteps = spread_timesteps(batch_size, noise_scheduler.config.num_train_timesteps, generator)
        noise = torch.randn(batch_size, *latents.shape[2:], generator=generator)
        input_ids, latent, noise, timesteps = map(
            to_device, (torch.tensor([tokens(caption) for caption in captions]), latents[rows, view], noise, timesteps)
        )
        noisy_latents = noise_scheduler.add_noise(latent, noise, timesteps)
        with autocast(params["bfloat16"], DEVICE):
            velocity = compute(noisy_latents, timesteps, input_ids)
        return F.mse_loss(velocity.float(), noise_scheduler.get_velocity(latent, noise, timesteps))

    schedule = FitParams(params["steps"], batch_size, params["lr"], params["seed"])
    inner = {
        name: weight
        for name, weight in unet.named_parameters()
        if weight.ndim > 1 and not name.startswith(("conv_in", "conv_out", "time_embedding"))
    }
    groups = [
        {"params": [weight for name, weight in unet.named_parameters() if name not in inner]},
        {"params": text_encoder.parameters(), "share": params["text_encoder_lr"]},
        {"params": inner.values(), "share": params["inner_lr"], "muon": True},
    ]
    fit("base", groups, compute_loss, schedule, checkpoint)
    model.to("cpu")
    return assemble(vae, text_encoder.eval(), tokenizer, unet.eval())


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(WORK / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(WORK / "clip")
    vae = AutoencoderKL.from_pretrained(WORK / "vae").eval()
    checkpoint = checkpoint_path("base", "base")
    pipeline = train_base(load_corpus(), vae, tokenizer, text_encoder, load_params("base"), checkpoint)
    pipeline.save_pretrained(WORK / "base")


if __name__ == "__main__":
    main()
