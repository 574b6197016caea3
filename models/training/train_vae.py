"""Train the miniature's AutoencoderKL: 64 px pictures to 8 x 8 x 32 latents (f = 8) and back.

    python models/training/train_vae.py

Learns colour and line art of all drawings but the held-out ones, the sample subjects half of the time.
Thirty-two channels because the best linear code of 8 x 8 patches needs 28 of them for 24 dB on
held-out drawings, and latents cost the UNet little at 8 x 8.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from corpus import RESOLUTION, WORK, Corpus, load_corpus, pixel_values
from diffusers import AutoencoderKL
from precision import autocast
from resume import load_checkpoint, save_checkpoint, set_learning_rate, step_generator
from torch import Tensor, nn
from tqdm import tqdm

KL_WEIGHT = 1e-4
LATENT_NOISE = 0.4
LEVEL = 0.25  # 0 would make noise of directions no picture needs, 1 would leave the variances as they are


def build_vae() -> AutoencoderKL:
    """1.7 M parameters; no attention at 8 x 8, where convolutions already see the whole picture."""
    channels = (16, 32, 64, 96)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=32,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        mid_block_add_attention=False,
    )


def draw_batch(corpus: Corpus, train: Tensor, subjects: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """(B, 3, 64, 64) in [-1, 1]: half of it subjects, half colour, mirrored half of the time."""
    half = batch_size // 2
    index = torch.cat(
        [
            train[torch.randint(len(train), (batch_size - half,), generator=generator)],
            subjects[torch.randint(len(subjects), (half,), generator=generator)],
        ]
    )
    view = torch.randint(corpus.color.shape[1], (batch_size,), generator=generator)
    in_color = torch.rand(batch_size, generator=generator) < 0.5
    pictures = torch.where(in_color[:, None, None, None], corpus.color[index, view], corpus.line[index, view])
    mirrored = torch.rand(batch_size, generator=generator) < 0.5
    return pixel_values(torch.where(mirrored[:, None, None, None], pictures.flip(2), pictures))


def picture_loss(error: Tensor) -> Tensor:
    """The loss of a reconstruction that is off by `error` (B, 3, H, W).

    L1, MSE, L1 of the gradients that keeps lines crisp, and MSE of the hue (each pixel's departure from its grey).
    """
    mse = error.square().mean()
    hue = (error - error.mean(dim=1, keepdim=True)).square().mean()
    gradients = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 2 * mse + 8 * hue + 0.3 * gradients


def vae_loss(vae: AutoencoderKL, pixel_values: Tensor, generator: torch.Generator) -> Tensor:
    """The picture's loss, a trace of KL and the patches' colour.

    The first three channels are drawn to the mean colour of their 8 x 8 pixels. Without that the hues that few drawings
    have come last: after 5,400 steps green came out yellow and blue grey, at 28.8 dB.
    """
    posterior = vae.encode(pixel_values).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    loss = picture_loss(reconstruction - pixel_values)
    color = (posterior.mean[:, :3] - F.avg_pool2d(pixel_values, 8)).square().mean()
    kl = posterior.kl().mean() / pixel_values[0].numel()
    return loss + 2 * color + KL_WEIGHT * kl


@torch.inference_mode()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean PSNR in dB over (B, H, W, 3) uint8 pictures, each reconstructed from its latents' mean."""
    x = pixel_values(pictures).to(vae.device)
    reconstruction = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    mse = (reconstruction - x).square().mean(dim=(1, 2, 3)) / 4
    return (-10 * mse.log10()).mean().item()


@torch.no_grad()
def level_latents(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Give the latents zero mean, uncorrelated channels and more even variances, within the 1 x 1 convolutions.

    Of the variance of a VAE's latents as trained, two thirds lie in one direction (paper or ink) and colour in
    directions of a fiftieth of it, which the diffusion model's noise, equal in all, would drown until the last
    few steps. Each principal direction's variance is raised to the power LEVEL here. Exact for the mean: the
    decoder's 1 x 1 convolution undoes what the encoder's does. The posterior's variance becomes its average.
    """
    posteriors = [vae.encode(pixel_values(p).to(vae.device)).latent_dist for p in pictures.split(64)]
    mean = torch.cat([p.mean for p in posteriors]).transpose(0, 1).flatten(1).double()  # (C, N * 8 * 8)
    average_variance = torch.cat([p.var for p in posteriors]).mean(dim=(0, 2, 3)).double()
    shift = mean.mean(dim=1)
    variance, directions = torch.linalg.eigh(mean.cov())
    to_level = variance[:, None] ** ((LEVEL - 1) / 2) * directions.T
    from_level = directions * variance ** ((1 - LEVEL) / 2)

    channels = len(shift)
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    encoder.weight[:channels, :, 0, 0] = (to_level @ encoder.weight[:channels, :, 0, 0].double()).float()
    encoder.bias[:channels] = (to_level @ (encoder.bias[:channels].double() - shift)).float()
    encoder.weight[channels:] = 0
    encoder.bias[channels:] = (to_level.square() @ average_variance).log().float()
    decoder.bias += (decoder.weight[:, :, 0, 0].double() @ shift).float()
    decoder.weight[:, :, 0, 0] = (decoder.weight[:, :, 0, 0].double() @ from_level).float()
    vae.register_to_config(scaling_factor=round((variance**LEVEL).mean().item() ** -0.5, 5))


def steadying_loss(vae: AutoencoderKL, pixel_values: Tensor, generator: torch.Generator) -> Tensor:
    """The picture's loss of a decoder that is given latents a little off, as a sampler's are.

    The encoder and with it the latents stay what they are. The noise's standard deviation is uniform between 0 and
    LATENT_NOISE of the latents' own.
    """
    with torch.no_grad():
        latents = vae.encode(pixel_values).latent_dist.mean
    spread = LATENT_NOISE / vae.config.scaling_factor * torch.rand((len(latents), 1, 1, 1), generator=generator)
    noise = spread * torch.randn(latents.shape, generator=generator)
    return picture_loss(vae.decode(latents + noise.to(latents)).sample.float() - pixel_values)


def fit(
    name: str,
    vae: AutoencoderKL,
    parameters: list[nn.Parameter],
    loss_of: Callable[[AutoencoderKL, Tensor, torch.Generator], Tensor],
    corpus: Corpus,
    steps: int,
    lr: float,
    seed: int,
    args: argparse.Namespace,
) -> None:
    """Lower `loss_of` over `parameters`, from work/<name>.checkpoint.safetensors on where there is one."""
    train = (~corpus.held_out).nonzero()[:, 0]
    subjects = (corpus.subject & ~corpus.held_out).nonzero()[:, 0]
    held_out = torch.cat([corpus.color[corpus.held_out, 0], corpus.line[corpus.held_out, 0]])
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    checkpoint = WORK / f"{name}.checkpoint.safetensors"
    start = load_checkpoint(checkpoint, parameters, optimizer)
    progress = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=5)
    for step in progress:
        generator = step_generator(seed, step)
        set_learning_rate(optimizer, step, steps, lr)
        x = draw_batch(corpus, train, subjects, args.batch_size, generator).to(args.device)
        with autocast(args.device):
            loss = loss_of(vae, x.contiguous(memory_format=torch.channels_last), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 500 == 0:
            save_checkpoint(checkpoint, step + 1, parameters, optimizer)
            tqdm.write(f"step {step + 1}: loss {loss.item():.4f}, held-out PSNR {psnr(vae, held_out):.2f} dB")
    print(f"{name}: held-out PSNR {psnr(vae, held_out):.2f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5400)
    parser.add_argument("--decoder-steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=WORK / "vae")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    corpus = load_corpus()
    vae = build_vae().to(args.device, memory_format=torch.channels_last)
    fit("vae", vae, list(vae.parameters()), vae_loss, corpus, args.steps, args.lr, args.seed, args)
    level_latents(vae, corpus.color[corpus.subject][:, 0])
    of_decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    fit("decoder", vae, of_decoder, steadying_loss, corpus, args.decoder_steps, args.lr / 2, args.seed + 1, args)
    vae.save_pretrained(args.out)


if __name__ == "__main__":
    main()
