"""The model that training sees: the UNet with its texts, the adapters on it, and what changes them."""

import importlib
import sys

import torch
from diffusers import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import CLIPTextModel

from stages.train.start import load_start
from tattoo_lora.diffusion.lora import TEXT_ENCODER_MODULES, add_lora, layer_ranks
from tattoo_lora.diffusion.objective import predict
from tattoo_lora.errors import UserError
from tattoo_lora.params import TrainParams, TrainProfile

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}  # diffusers' names
OPTIMIZERS = {  # module, class and its options; all but the first are packages of their own
    "adamw": ("torch.optim", "AdamW", {"fused": True}),
    "adamw_8bit": ("bitsandbytes.optim", "AdamW8bit", {}),
    "prodigy": ("prodigyopt", "Prodigy", {}),
}


class Denoiser(nn.Module):
    """The UNet and what conditions it on the U texts: their embeddings (U, T, D), or an encoder that learns too."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        embeds: Tensor | None,
        text_encoder: CLIPTextModel | None = None,
        input_ids: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.start: dict[str, Tensor] | None = None  # the adapter to continue from, in read_adapter's keys
        self.register_buffer("embeds", embeds, persistent=False)
        self.register_buffer("input_ids", input_ids, persistent=False)

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, caption_rows: Tensor) -> Tensor:
        """The prediction (B, C, h, w) for noisy_latents (B, C, h, w), timesteps (B,) and rows of the texts (B,)."""
        if self.text_encoder is None:
            encoder_hidden_states = self.embeds[caption_rows]
        else:
            encoder_hidden_states = self.text_encoder(self.input_ids[caption_rows]).last_hidden_state
        return predict(self.unet, noisy_latents, timesteps, encoder_hidden_states)


def add_adapters(denoiser: Denoiser, params: TrainParams, profile: TrainProfile) -> list[dict]:
    """Adapters on the UNet and, with a text_encoder_lr, on the text encoder; the optimizer's groups.

    They are fresh, or what `denoiser.start` holds.
    """
    shared = {
        "r": params.rank,
        "lora_alpha": params.alpha,
        "use_rslora": params.use_rslora,
        "lora_dropout": params.lora_dropout,
        "init_lora_weights": "gaussian",
    }
    ranks = layer_ranks(profile.target_modules, params.rank, params.ranks)
    others = {layer: rank for layer, rank in ranks.items() if rank != params.rank}
    power = 0.5 if params.use_rslora else 1  # all layers have the scale that alpha gives to `rank`
    alphas = {layer: params.alpha * (rank / params.rank) ** power for layer, rank in others.items()}
    unet_config = LoraConfig(
        target_modules=list(ranks), rank_pattern=others, alpha_pattern=alphas, use_dora=params.use_dora, **shared
    )
    add_lora(denoiser.unet, unet_config, params.seed)
    groups = parameter_groups(denoiser.unet, profile.learning_rate, params.lora_plus_ratio)
    if denoiser.text_encoder is not None:
        text_config = LoraConfig(target_modules=TEXT_ENCODER_MODULES, **shared)
        add_lora(denoiser.text_encoder, text_config, params.seed)
        groups += parameter_groups(denoiser.text_encoder, params.text_encoder_lr, params.lora_plus_ratio)
    if denoiser.start is not None:
        load_start(denoiser.start, denoiser.unet, denoiser.text_encoder, params.use_dora)
    return groups


def parameter_groups(model: nn.Module, learning_rate: float, lora_plus_ratio: float | None) -> list[dict]:
    """What learns in the model, as one group, or as two: LoRA+ (https://arxiv.org/abs/2402.12354) teaches B faster."""
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if lora_plus_ratio is None:
        return [{"params": list(learning.values()), "lr": learning_rate}]
    fast = {name: parameter for name, parameter in learning.items() if ".lora_B." in name}
    return [
        {"params": [parameter for name, parameter in learning.items() if name not in fast], "lr": learning_rate},
        {"params": list(fast.values()), "lr": learning_rate * lora_plus_ratio},
    ]


def make_optimizer(groups: list[dict], name: str, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer called `name`; UserError where its package is not installed."""
    module, class_name, options = OPTIMIZERS[name]
    package = module.partition(".")[0]
    if name == "prodigy" and len({group["lr"] for group in groups}) > 1:
        raise UserError(
            "params.yaml: train.optimizer: prodigy finds one learning rate for all; set lora_plus_ratio to null, and "
            "text_encoder_lr to null or to the profile's learning_rate"
        )
    if sys.modules.get(package, ...) is None:  # tattoo_lora/__init__.py holds it back
        del sys.modules[package]
    try:
        return getattr(importlib.import_module(module), class_name)(groups, weight_decay=weight_decay, **options)
    except ModuleNotFoundError:
        raise UserError(f"params.yaml: train.optimizer: {name} needs {package}: `pip install {package}`") from None


def make_lr_scheduler(optimizer: torch.optim.Optimizer, schedule: str, profile: TrainProfile) -> LRScheduler:
    """A linear warm-up, then the schedule."""
    return get_scheduler(
        SCHEDULES[schedule], optimizer, num_warmup_steps=profile.warmup_steps, num_training_steps=profile.steps
    )
