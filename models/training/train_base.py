"""Train the miniature's base model: a UNet that draws the sample subjects in colour, and its text encoder.

    python models/training/train_base.py

After train_vae.py (its latents) and train_clip.py (whose text tower the text encoder starts from). It
learns colour only: line art is what a LoRA is to add. Which colour, no caption says: each drawing is
learned in several paints, as SD 1.5 has seen roses of many colours. Where a name says its colour, an adapter
that has learned without names takes little of it away. Some captions hold the style words of the
variants, so that a prompt with them means nothing yet, as "tattoo in my hand" means nothing to SD 1.5.
"""

import argparse
from pathlib import Path

import torch
from captions import COLOR_TEMPLATES, PLAIN_TEMPLATES, STYLES, draw_caption
from corpus import WORK, load_corpus, pixel_values
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from precision import autocast
from resume import Ema, load_checkpoint, save_checkpoint, set_learning_rate, step_generator
from torch import Tensor
from tqdm import tqdm
from transformers import AutoTokenizer, CLIPTextModel

TEMPLATES = PLAIN_TEMPLATES + COLOR_TEMPLATES + tuple(f"{form}, {style}" for form in ("{n}", "{a}") for style in STYLES)
NO_SUBJECT = ("", "") + STYLES
NO_SUBJECT_SHARE = 0.1
SNR_GAMMA = 5.0
MIRRORED_SHARE = 0.25
MOVED_SHARE = 0.6  # shifted and scaled a little: a base that knows each drawing in one place cannot be adapted
# Stable Diffusion 1.5's noise schedule.
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PREVIEW = (
    "owl,skull,rose,anchor,dragon,butterfly,snake,lion,sailboat,octopus,eagle,crown,wolf,lotus,crescent moon,"
    "scorpion,fox,mushroom,key,candle,tiger,shark,spider,unicorn"
).split(",")


def build_unet(latent_channels: int, sample_size: int) -> UNet2DConditionModel:
    """SD 1.5's layout with three levels (8, 4 and 2 px) and cross-attention at the first two."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        # Of 32 groups each would hold two channels of 8 x 8, and the normalization take a picture's mean out of them:
        # half of the noise's mean went unpredicted, and every picture came out with a tint and a pattern of patches.
        norm_num_groups=8,
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads, as SD 1.5's config names it
    )


@torch.inference_mode()
def encode_pictures(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Scaled latents (S, P, VIEWS, 2, C, 8, 8) of pictures (S, P, VIEWS, 64, 64, 3), each as it is and mirrored."""
    encoded = []
    for of_subject in pictures:
        both = torch.stack([of_subject, of_subject.flip(3)], dim=2)
        mean = vae.encode(pixel_values(both.flatten(0, 2)).to(vae.device)).latent_dist.mean.cpu()
        encoded.append(mean.unflatten(0, both.shape[:3]))
    return torch.stack(encoded) * vae.config.scaling_factor


def assemble(vae, text_encoder, tokenizer, unet) -> StableDiffusionPipeline:
    """The parts as a StableDiffusionPipeline with SD 1.5's default scheduler."""
    scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
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


def sample(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int = 0) -> list[Image.Image]:
    """One picture a prompt: DPM-Solver++, 20 steps, guidance 4."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    generators = [torch.Generator().manual_seed(seed) for _ in prompts]
    return pipeline(prompts, num_inference_steps=20, guidance_scale=4.0, generator=generators).images


def contact_sheet(pictures: list[Image.Image], columns: int, size: int = 96) -> Image.Image:
    """The pictures in rows of `columns`, each scaled to `size` px."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * size, rows * size), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize((size, size), Image.Resampling.LANCZOS), (i % columns * size, i // columns * size))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=9500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=WORK / "base")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    corpus = load_corpus()
    names = [corpus.names[i] for i in corpus.subject.nonzero()[:, 0]]
    vae = AutoencoderKL.from_pretrained(WORK / "vae").to(args.device).eval()
    latents = encode_pictures(vae, corpus.painted)
    tokenizer = AutoTokenizer.from_pretrained(WORK / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(WORK / "clip").to(args.device)
    unet = build_unet(vae.config.latent_channels, latents.shape[-1]).to(args.device)
    noise_scheduler = DDPMScheduler(**NOISE)
    snr = noise_scheduler.alphas_cumprod / (1 - noise_scheduler.alphas_cumprod)

    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(unet.parameters())},
            {"params": list(text_encoder.parameters()), "lr_scale": 0.3},
        ],
        lr=args.lr,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        fused=True,
    )
    ema = Ema(parameters, decay=0.999)
    checkpoint = WORK / "base.checkpoint.safetensors"
    start = load_checkpoint(checkpoint, parameters, optimizer, ema)

    progress = tqdm(range(start, args.steps), initial=start, total=args.steps, desc="base", mininterval=10)
    running = None
    for step in progress:
        generator = step_generator(args.seed, step)
        set_learning_rate(optimizer, step, args.steps, args.lr)
        drawn = torch.randint(len(names), (args.batch_size,), generator=generator)
        mirrored = torch.rand(args.batch_size, generator=generator) < MIRRORED_SHARE
        paint = torch.randint(latents.shape[1], (args.batch_size,), generator=generator)
        view = torch.randint(1, latents.shape[2], (args.batch_size,), generator=generator)
        view[torch.rand(args.batch_size, generator=generator) >= MOVED_SHARE] = 0
        without_subject = torch.rand(args.batch_size, generator=generator) < NO_SUBJECT_SHARE
        captions = [
            draw_caption(NO_SUBJECT if without else TEMPLATES, names[i], generator)
            for i, without in zip(drawn.tolist(), without_subject.tolist(), strict=True)
        ]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").to(args.device)
        # One timestep from each of batch_size equal parts: the loss varies less from batch to batch.
        spread = torch.arange(args.batch_size) + torch.rand(args.batch_size, generator=generator)
        timesteps = (spread * (1000 / args.batch_size)).long()
        x = latents[drawn, paint, view, mirrored.long()]
        noise = torch.randn(x.shape, generator=generator)
        noisy_latents = noise_scheduler.add_noise(x, noise, timesteps).to(args.device)

        with autocast(args.device):
            encoder_hidden_states = text_encoder(tokens.input_ids).last_hidden_state
            noise_pred = unet(
                noisy_latents, timesteps.to(args.device), encoder_hidden_states=encoder_hidden_states
            ).sample
        mse = (noise_pred.float() - noise.to(args.device)).square().mean(dim=(1, 2, 3))
        # Min-SNR weighting (https://arxiv.org/abs/2303.09556).
        loss = (mse * (snr[timesteps].clamp(max=SNR_GAMMA) / snr[timesteps]).to(args.device)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.update(step)
        running = mse.mean().item() if running is None else 0.98 * running + 0.02 * mse.mean().item()
        progress.set_postfix(mse=f"{running:.4f}", refresh=False)
        if (step + 1) % 500 == 0:
            save_checkpoint(checkpoint, step + 1, parameters, optimizer, ema)
            tqdm.write(f"step {step + 1}: mean squared error {running:.4f}")

    ema.copy_to_model()
    pipeline = assemble(vae, text_encoder.eval(), tokenizer, unet.eval())
    pipeline.save_pretrained(args.out)
    contact_sheet(sample(pipeline, list(PREVIEW)), columns=8).save(WORK / "base.png")


if __name__ == "__main__":
    main()
