"""Loading the models that a profile names, safetensors only: a folder in the hub's layout, a hub id with its commit,
or, for the base, a checkpoint in one file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import PartialState
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTextModel, PreTrainedModel
from transformers.utils import logging

from tattoo_lora.diffusion.checkpoint_file import config_folder, is_checkpoint, load_part, load_vae_file
from tattoo_lora.diffusion.hub import cpu_has_bfloat16, finding, is_full_size, other_vae
from tattoo_lora.params import Model

torch.backends.cuda.matmul.allow_tf32 = True  # for what is float32 on a card that has it; convolutions do it anyway
logging.disable_progress_bar()
diffusers_logging.disable_progress_bar()  # loading takes a moment; the stages show the progress of their own work
logging.set_verbosity_error()
diffusers_logging.set_verbosity_error()  # what they warn of, weights that are missing, is an error here


def process_state() -> PartialState:
    """This process among those that `accelerate launch` or torchrun started; the only one otherwise.

    accelerate has to be told that there is no accelerator, or several processes would not find each other.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def use_threads(count: int | None) -> None:
    """Compute with so many threads on a CPU, or with torch's own number, one a core.

    Their number decides the order of sums, and with it the last bits of every result.
    """
    if count is not None:
        torch.set_num_threads(count)


def pick_device() -> torch.device:
    """This process's GPU, CUDA or Apple's, if torch finds one, else the CPU."""
    return process_state().device


def pick_dtype(name: str, model: Model) -> torch.dtype:
    """The dtype of the model's frozen weights: the one that the profile names, on every device.

    `auto` is bfloat16 where a CUDA card computes in it, else float16 (a GTX 1060 has no bfloat16). Elsewhere it is
    float32, but for models of full size on a CPU with instructions for bfloat16, which takes half the time there: a
    miniature takes longer.
    """
    if name != "auto":
        return getattr(torch, name)
    device = pick_device().type
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device == "cpu" and cpu_has_bfloat16() and is_full_size(model) else torch.float32


def measuring_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that losses are measured in where a UNet trains in `dtype`.

    bfloat16 has 8 bits: it moved the miniature's val_loss by 2.5%, and an adapter's by 4.6%, where 1% counts as a
    difference. float16 moved it by 0.02%, or by 0.6% where weights had been bfloat16; on a CPU it is slow.
    """
    if dtype != torch.bfloat16:
        return dtype
    return torch.float32 if device.type == "cpu" else torch.float16


@contextmanager
def measuring(unet: UNet2DConditionModel) -> Iterator[None]:
    """The UNet in the dtype that losses are measured in, its adapter as it is; afterwards it has its own bytes back.

    A recorded graph knows the weights by where they lie, so where the dtype's size allows they stay there. A larger
    dtype holds every number of the smaller one, so nothing has to be kept for the way back.
    """
    own, dtype = unet.dtype, measuring_dtype(unet.dtype, unet.device)
    if dtype == own:
        yield
        return
    frozen = [parameter for parameter in unet.parameters() if parameter.dtype == own]
    in_place = dtype.itemsize == own.itemsize
    kept = [parameter.data.to("cpu", copy=True) for parameter in frozen] if in_place else []
    for parameter in frozen:
        converted = parameter.data.to(dtype)
        parameter.data = parameter.data.view(dtype).copy_(converted) if in_place else converted
    try:
        yield
    finally:
        for i, parameter in enumerate(frozen):
            parameter.data = parameter.data.view(own).copy_(kept[i]) if in_place else parameter.data.to(own)


@contextmanager
def on_device(device: torch.device, *models: nn.Module) -> Iterator[None]:
    """Keep the models on the device while they are used; afterwards training has its memory back."""
    for model in models:
        model.to(device)
    try:
        yield
    finally:
        for model in models:
            model.to("cpu")
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _load(cls: type, model: Model, dtype: torch.dtype, subfolder: str = ""):
    with finding(model):
        if is_checkpoint(model.id):
            return _frozen(load_part(model.id, subfolder, dtype))
        options = {"revision": model.revision, "subfolder": subfolder, "use_safetensors": True}
        # Weights of other shapes: diffusers refuses them in a line, transformers with a report.
        options["ignore_mismatched_sizes"] = issubclass(cls, PreTrainedModel)
        loaded, info = cls.from_pretrained(model.id, dtype=dtype, output_loading_info=True, **options)
        return _frozen(loaded, [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])


def _frozen(model: nn.Module, missing: Sequence[str] = ()) -> nn.Module:
    """The model, frozen; ValueError if weights are `missing`: both libraries would go on with random ones."""
    missing = [*missing, *(name for name, parameter in model.named_parameters() if parameter.is_meta)]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing or of another shape, such as {min(missing)}")
    for tensor in (*model.parameters(), *model.buffers()):
        # Mapped from the file a tensor lies anywhere; products' last bits depend on how it is aligned in memory.
        tensor.data = tensor.data.clone()
    return model.eval().requires_grad_(False)


def load_vae(base: Model) -> AutoencoderKL:
    """The VAE in float32, because SD 1.5's overflows in float16, and in channels_last as the UNet."""
    other = other_vae(base)
    if other is None:
        vae = _load(AutoencoderKL, base, torch.float32, "vae")
    elif is_checkpoint(other.id):
        with finding(base):
            vae = _frozen(load_vae_file(other.id, torch.float32))
    else:
        vae = _load(AutoencoderKL, other, torch.float32)
    return vae.to(memory_format=torch.channels_last)


def load_unet(base: Model, dtype: torch.dtype) -> UNet2DConditionModel:
    """In channels_last, which is the faster layout for convolutions on CPUs and GPUs alike."""
    unet = _load(UNet2DConditionModel, base, dtype, "unet")
    return unet.to(memory_format=torch.channels_last)


def load_text_encoder(base: Model) -> CLIPTextModel:
    """The text encoder in float32."""
    return _load(CLIPTextModel, base, torch.float32, "text_encoder")


def load_noise_scheduler(base: Model) -> DDPMScheduler:
    """The base model's own noise schedule, for training."""
    with finding(base):
        return DDPMScheduler.from_pretrained(config_folder(base.id), subfolder="scheduler", revision=base.revision)


def assemble_pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel | None,
    tokenizer,
    unet: UNet2DConditionModel,
    noise_scheduler: DDPMScheduler,
) -> StableDiffusionPipeline:
    """A pipeline of the given parts that samples with DPM-Solver++ and shows no progress bar."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler.from_config(noise_scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def place(pipeline: StableDiffusionPipeline, device: torch.device, low_memory: bool) -> None:
    """Put the pipeline's parts on the device, or with `low_memory` each only while it works.

    Attention is not sliced: torch's own is fused and keeps no matrix of weights, which slicing would bring back.
    """
    if low_memory and device.type != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)


def load_clip(model: Model) -> tuple[CLIPModel, CLIPProcessor]:
    """CLIP and its processor, with the PIL image processor: scores must not depend on torchvision being there."""
    return load_with_processor(model, CLIPModel, CLIPProcessor, CLIPImageProcessorPil)


def load_with_processor(model: Model, cls: type, processor_cls: type, image_processor_cls: type) -> tuple:
    """A model in float32 and its processor, with an image processor of the given class."""
    loaded = _load(cls, model, torch.float32)
    with finding(model):
        image_processor = image_processor_cls.from_pretrained(model.id, revision=model.revision)
        return loaded, processor_cls.from_pretrained(model.id, revision=model.revision, image_processor=image_processor)
