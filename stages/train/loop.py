"""The training loop: DDPM's objective on the adapters alone, everything else frozen."""

import math
from functools import partial

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from stages.train.batches import Batch, Batches
from stages.train.denoiser import Denoiser, add_adapters, make_lr_scheduler, make_optimizer
from stages.train.memory import MicroBatches
from stages.train.run import Outputs, Run
from stages.train.state import TrainState
from tattoo_lora.diffusion.objective import denoising_losses, min_snr_weights
from tattoo_lora.errors import UserError
from tattoo_lora.params import TrainParams, TrainProfile
from tattoo_lora.progress import tqdm

LOG_EVERY = 10  # steps a row: the loss stays on the device until a row is due


def batch_loss(forward: nn.Module, batch: Batch, noise_scheduler: DDPMScheduler, min_snr_gamma: float | None) -> Tensor:
    """The mean loss, a scalar, of the batch; `forward` is the denoiser, compiled or distributed or not."""

    def predict(noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        return forward(noisy_latents, timesteps, batch.caption_rows)

    losses = denoising_losses(predict, noise_scheduler, batch.latents, batch.noise, batch.timesteps)
    if min_snr_gamma is not None:
        losses = losses * min_snr_weights(noise_scheduler, batch.timesteps, min_snr_gamma)
    return losses.mean()


def train(
    denoiser: Denoiser,
    noise_scheduler: DDPMScheduler,
    batches: Batches,
    params: TrainParams,
    profile: TrainProfile,
    accelerator: Accelerator,
    outputs: Outputs,
) -> int:
    """Fit fresh adapters on the denoiser, with warm-up and a schedule; the best and the final ones are saved.

    `profile` is a planned one, with steps. Returns how many of them this process computed.

    An interrupted run goes on from its last snapshot and ends with the same bytes. UserError where a loss is no longer
    finite: the weights of the last evaluation before it are saved as final.
    """
    groups = add_adapters(denoiser, params, profile)
    lora_params = [parameter for group in groups for parameter in group["params"]]
    optimizer = make_optimizer(groups, params.optimizer, params.weight_decay)
    lr_scheduler = make_lr_scheduler(optimizer, params.schedule, profile)
    # Small gradients would round to nothing in float16; with any other dtype the scaler does nothing.
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=denoiser.unet.dtype == torch.float16)
    ema = None if params.ema_decay is None else EMAModel(lora_params, decay=params.ema_decay)
    state = TrainState(lora_params, optimizer, lr_scheduler, scaler, ema)
    run = Run(outputs, state, denoiser, params, accelerator)
    compute_loss = partial(batch_loss, noise_scheduler=noise_scheduler, min_snr_gamma=profile.min_snr_gamma)
    micro_batches = MicroBatches(denoiser, batches, compute_loss, accelerator, scaler, profile)
    start(run, micro_batches, accelerator, denoiser.unet.dtype)

    losses: list[Tensor] = []
    resumed = state.step
    progress = tqdm(
        range(state.step + 1, profile.steps + 1),
        initial=state.step,
        total=profile.steps,
        desc="train",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    for step in progress:
        losses.append(micro_batches.backward(step))
        if params.max_grad_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(lora_params, params.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        lr_scheduler.step()
        micro_batches.zero_grad()
        if ema is not None:
            ema.step(lora_params)
        state.step = step

        is_measured = step % profile.eval_every == 0 or step == profile.steps
        if is_measured or step % LOG_EVERY == 0:
            train_loss = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
            losses.clear()
            if not math.isfinite(train_loss):
                run.stop_diverged(f"train_loss is {train_loss}", profile.learning_rate)
            val_loss, clip_score = micro_batches.evaluate(partial(run.measure, step)) if is_measured else (None, None)
            if is_measured and not math.isfinite(val_loss):
                run.stop_diverged(f"val_loss is {val_loss}", profile.learning_rate)
            run.log_row(step, train_loss, val_loss, clip_score)
            progress.set_postfix(loss=f"{train_loss:.4f}", refresh=False)
            if is_measured and state.record(val_loss):
                run.save("best", step, val_loss)
        if params.save_every is not None and step % params.save_every == 0:
            run.save(f"step{step:04d}", step, None)
        if params.early_stop_evals is not None and state.evals_since_best >= params.early_stop_evals:
            tqdm.write(
                f"early stop at step {step}: val_loss {state.best_loss:.4f} not bettered in "
                f"{state.evals_since_best} evaluations"
            )
            break
        if not losses and step < profile.steps:  # a snapshot holds no pending loss
            run.save_snapshot(micro_batch_size=micro_batches.size)
    run.save("final", step, val_loss)
    return step - resumed


def start(run: Run, micro_batches: MicroBatches, accelerator: Accelerator, dtype: torch.dtype) -> None:
    """Go on from a snapshot, or measure the base model; then compile. UserError where the base gives no numbers."""
    snapshot = run.load_snapshot()
    if snapshot:
        micro_batches.size = snapshot["micro_batch_size"]
        accelerator.print(f"going on after step {run.state.step}")
    else:
        val_loss, clip_score = micro_batches.evaluate(partial(run.measure, 0))  # first: its memory stays free
        if not math.isfinite(val_loss):
            raise UserError(
                f"val_loss is {val_loss} before any training; the base model's numbers go out of range in "
                f"{str(dtype).removeprefix('torch.')}: set the profile's dtype to float32 or bfloat16"
            )
        run.log_row(0, None, val_loss, clip_score)
        micro_batches.choose_size()
    micro_batches.compile()
