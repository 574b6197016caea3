"""Train the miniature's AutoencoderKL: 128 px pictures to 8 x 8 latents (f = 16) and back.

    python train_vae.py

Reads work/corpus, writes work/vae. Learns colour, paints and line art of every hand but the unseen ones, and none of
the held-out drawings. It learns to draw what a 16 x 16 patch holds, so that the UNet has 64 places and no more.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from choices import by_hand, choose, spread_out
from corpus import Corpus, load_corpus, load_unseen, views
from diffusers import AutoencoderKL
from precision import autocast
from recipe import WORK, load_params
from resume import FitParams, checkpoint_path, fit
from torch import Tensor

LEVEL = 0.25  # 0 would make noise of directions no picture needs, 1 would leave the variances as they are
MEASURED = 96  # drawings of each kind that a report takes


def build_vae(params: dict) -> AutoencoderKL:
    """One level more than Stable Diffusion's, f = 2 to the number of levels less one; no attention at 8 x 8."""
    channels = params["channels"]
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=params["latent_channels"],
        norm_num_groups=8,
        sample_size=params["resolution"],
        mid_block_add_attention=False,
    )


def learned_rows(corpus: Corpus) -> dict[str, dict[str, list[int]]]:
    """For color, painted and line: each hand's rows that are not held out."""
    return {
        kind: by_hand(corpus, kind, [i for i, row in enumerate(rows) if not row.held_out])
        for kind, rows in corpus.rows.items()
    }


def draw_batch(
    corpus: Corpus, rows: dict[str, dict[str, list[int]]], params: dict, generator: torch.Generator
) -> Tensor:
    """(B, 3, H, W) in [-1, 1]: `line_share` of it line art, half of the rest in paints, half of all mirrored.

    Each hand is as likely, whatever it has drawn.
    """
    line = round(params["batch_size"] * params["line_share"])
    painted = (params["batch_size"] - line) // 2
    kinds = ["line"] * line + ["painted"] * painted + ["color"] * (params["batch_size"] - line - painted)
    pictures = []
    for kind in kinds:
        master = getattr(corpus, kind)[choose(choose(list(rows[kind].values()), generator), generator)]
        picture = views(master[None], generator, params["resolution"])
        pictures.append(picture.flip(3) if torch.rand((), generator=generator) < 0.5 else picture)
    return torch.cat(pictures)


def picture_loss(error: Tensor) -> Tensor:
    """The loss of a reconstruction that is off by `error` (B, 3, H, W).

    L1, MSE, L1 of the gradients that keeps lines crisp, and MSE of the hue (each pixel's departure from its grey).
    """
    mse = error.square().mean()
    hue = (error - error.mean(dim=1, keepdim=True)).square().mean()
    gradients = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 2 * mse + 8 * hue + 0.3 * gradients


def vae_loss(vae: AutoencoderKL, x: Tensor, kl_weight: float, generator: torch.Generator) -> Tensor:
    """The picture's loss, a trace of KL and the patches' colour.

    The first three channels are drawn to the mean colour of their patch. Without that the hues that few drawings have
    come last: green came out yellow and blue grey, at 28.8 dB.
    """
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    patches = F.adaptive_avg_pool2d(x, posterior.mean.shape[-2:])
    color = (posterior.mean[:, :3] - patches).square().mean()
    kl = posterior.kl().mean() / x[0].numel()
    return picture_loss(reconstruction - x) + 2 * color + kl_weight * kl


def steadying_loss(vae: AutoencoderKL, x: Tensor, latent_noise: float, generator: torch.Generator) -> Tensor:
    """The picture's loss of a decoder that is given latents a little off, as a sampler's are.

    The encoder and with it the latents stay what they are. The noise's standard deviation is uniform between 0 and
    `latent_noise` of the latents' own.
    """
    with torch.no_grad():
        latents = vae.encode(x).latent_dist.mean
    spread = latent_noise / vae.config.scaling_factor * torch.rand((len(latents), 1, 1, 1), generator=generator)
    noise = spread * torch.randn(latents.shape, generator=generator)
    return picture_loss(vae.decode(latents + noise.to(latents)).sample.float() - x)


@torch.inference_mode()
def reconstruct(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] from the latents' means of x (B, 3, H, W)."""
    parts = x.split(32)
    return torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in parts])


def psnr(vae: AutoencoderKL, x: Tensor) -> float:
    """Mean PSNR in dB over pictures (B, 3, H, W) in [-1, 1], each reconstructed from its latents' mean."""
    mse = (reconstruct(vae, x) - x).square().mean(dim=(1, 2, 3)) / 4
    return (-10 * mse.clamp(min=1e-8).log10()).mean().item()


def held_out_pictures(corpus: Corpus, kind: str, resolution: int, count: int = MEASURED) -> Tensor:
    """The held-out drawings of one kind, framed as the preprocess stage frames them, (B, 3, H, W)."""
    rows = [i for i, row in enumerate(corpus.rows[kind]) if row.held_out]
    return views(getattr(corpus, kind)[spread_out(rows, count)], None, resolution)


def unseen_pictures(resolution: int, count: int = MEASURED) -> Tensor:
    """Drawings of the hands that no model is trained on, (B, 3, H, W)."""
    masters, rows = load_unseen()
    return views(masters[spread_out(list(range(len(rows))), count)], None, resolution)


@torch.no_grad()
def level_latents(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Give the latents zero mean, uncorrelated channels and more even variances, within the 1 x 1 convolutions.

    Of the variance of a VAE's latents as trained, two thirds lie in one direction (paper or ink) and colour in
    directions of a fiftieth of it, which the diffusion model's noise, equal in all, would drown until the last
    few steps. Each principal direction's variance is raised to the power LEVEL here. Exact for the mean: the
    decoder's 1 x 1 convolution undoes what the encoder's does. The posterior's variance becomes its average.
    """
    posteriors = [vae.encode(x).latent_dist for x in pictures.split(64)]
    mean = torch.cat([p.mean for p in posteriors]).transpose(0, 1).flatten(1).double()  # (C, N * 8 * 8)
    average_variance = torch.cat([p.var for p in posteriors]).mean(dim=(0, 2, 3)).double()
    shift = mean.mean(dim=1)
    variance, directions = torch.linalg.eigh(mean.cov())
    variance = variance.clamp(min=variance.max() * 1e-6)  # a direction that nothing uses is not to be blown up
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


def train_vae(
    corpus: Corpus, params: dict, checkpoint: Callable[[str], Path], measured: Callable[[AutoencoderKL], str]
) -> AutoencoderKL:
    """Encoder and decoder together; the latents leveled; then the decoder alone.

    `checkpoint` says where the run of a name keeps its state, `measured` what a report says of the VAE.
    """
    torch.manual_seed(params["seed"])
    vae = build_vae(params)
    rows = learned_rows(corpus)

    def batch(generator: torch.Generator) -> Tensor:
        return draw_batch(corpus, rows, params, generator)

    def both(generator: torch.Generator) -> Tensor:
        with autocast(params["bfloat16"]):
            return vae_loss(vae, batch(generator), params["kl_weight"], generator)

    def decoder_alone(generator: torch.Generator) -> Tensor:
        with autocast(params["bfloat16"]):
            return steadying_loss(vae, batch(generator), params["latent_noise"], generator)

    schedule = FitParams(params["steps"], params["batch_size"], params["lr"], params["seed"])
    fit("vae", vae.parameters(), both, schedule, checkpoint("vae"), lambda: measured(vae))
    level_latents(vae, leveling_pictures(corpus, rows, params))
    of_decoder = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
    schedule = FitParams(params["decoder_steps"], params["batch_size"], params["lr"] / 2, params["seed"] + 1)
    fit("decoder", of_decoder, decoder_alone, schedule, checkpoint("decoder"), lambda: measured(vae))
    return vae


def leveling_pictures(corpus: Corpus, rows: dict[str, dict[str, list[int]]], params: dict, count: int = 512) -> Tensor:
    """Pictures that the base model will learn: the subjects' drawings in paints, (B, 3, H, W)."""
    painted = [i for indices in rows["painted"].values() for i in indices]
    return views(corpus.painted[spread_out(painted, count)], None, params["resolution"])


def main() -> None:
    params = load_params("vae")
    corpus = load_corpus()
    color, line = (held_out_pictures(corpus, kind, params["resolution"]) for kind in ("color", "line"))
    unseen = unseen_pictures(params["resolution"])

    def measured(vae: AutoencoderKL) -> str:
        figures = ", ".join(
            f"{what} {psnr(vae, x):.2f}"
            for what, x in (("colour", color), ("line art", line), ("unseen hands", unseen))
        )
        return f", held-out PSNR in dB: {figures}"

    train_vae(corpus, params, partial(checkpoint_path, "vae"), measured).save_pretrained(WORK / "vae")


if __name__ == "__main__":
    main()
