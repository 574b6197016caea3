"""Making the gradients of a step fit the memory: micro-batches, what to do when memory runs out, a compiled model."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from stages.train.batches import Batch, Batches, seeded_dropout
from stages.train.denoiser import Denoiser
from tattoo_lora.errors import UserError, is_out_of_memory
from tattoo_lora.params import TrainParams, TrainProfile
from tattoo_lora.progress import tqdm

COMPILE_MODES = {"default": "default", "graphs": "reduce-overhead"}  # torch.compile's names
# Seconds of a training that pays for compiling. Beside an H100 that took more than three minutes at full size, and more
# than one and a half for the miniature.
PAYS_FROM = 20 * 60
Result = TypeVar("Result")


class MicroBatches:
    """The gradients of effective batches, each taken in micro-batches of `size` samples in every process.

    `compute_loss(forward, batch)` gives the mean loss, a scalar; `forward` is the denoiser as accelerate prepared it,
    compiled or not.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        batches: Batches,
        compute_loss: Callable[[nn.Module, Batch], Tensor],
        accelerator: Accelerator,
        scaler: torch.amp.GradScaler,
        profile: TrainProfile,
    ) -> None:
        self.denoiser, self.batches, self.compute_loss = denoiser, batches, compute_loss
        self.accelerator, self.scaler = accelerator, scaler
        self.params, self.profile = batches.params, profile
        self.per_process = profile.batch_size * profile.gradient_accumulation_steps
        self.size = profile.batch_size
        self.kept = 0.0  # bytes for evaluations
        if self.params.gradient_checkpointing:
            denoiser.unet.enable_gradient_checkpointing()
        self.model = self.forward = accelerator.prepare(denoiser)
        self.zero_grad()
        denoiser.train(self.params.lora_dropout > 0)  # nothing else in it has a dropout

    def choose_size(self) -> None:
        """Take as many samples at once as params say, or as the memory holds in each of the processes."""
        size = pick_micro_batch_size(self.params, self.profile, self.accelerator, self._try, self.kept)
        self.size = min(gather_object([size]))

    def compile(self) -> None:
        """Compile the model as params say, and try it once; where that fails, say why and go on without."""
        if self.params.compile == "auto" and self._has_shapes():
            return
        mode = pick_compile(self.params, self.accelerator.device, self._training_seconds)
        if mode == "off":
            return
        self.accelerator.print(f"train.compile: {mode}: this takes minutes")
        self.forward = torch.compile(self.model, mode=COMPILE_MODES[mode], dynamic=False)
        try:
            self._try(self.size)
            return
        except Exception as error:  # a compiler's own may be of any type
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            has_room = not is_out_of_memory(error)
        if has_room:
            self.accelerator.print(f"train.compile: {mode} fails here, going on without ({reason:.150})")
            self._drop_compiled()
        else:
            free_memory()  # the first step will make room

    def _training_seconds(self) -> float:
        """How long the training takes uncompiled, by one micro-batch in the slowest of the processes.

        0 where no process's memory holds one.
        """
        return max(gather_object([self._own_training_seconds()]))

    def _own_training_seconds(self) -> float:
        wait = torch.accelerator.synchronize if torch.accelerator.is_available() else lambda: None
        try:
            self._try(self.size)  # a first one is slower
            wait()
            started = time.perf_counter()
            self._try(self.size)
            wait()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            free_memory()  # the first step will make room
            return 0.0
        return (time.perf_counter() - started) * self.profile.steps * self.per_process / self.size

    def evaluate(self, work: Callable[[], Result]) -> Result:
        """`work()`, an evaluation beside the training; what it takes more than is taken now is kept for the next ones.

        Where memory runs out in it, the graphs that were recorded give theirs back, and training goes on without.
        """
        before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        try:
            peak, result = cuda_memory(work)
        except RuntimeError as error:
            if self.forward is self.model or not is_out_of_memory(error):
                raise
        else:
            self.kept = max(self.kept, peak - before)
            return result
        self.accelerator.print("out of memory in an evaluation: going on without train.compile")
        self._drop_compiled()
        return work()

    def _drop_compiled(self) -> None:
        self.forward = self.model
        torch.compiler.reset()  # graphs that were recorded hold memory
        free_memory()

    def _has_shapes(self) -> bool:
        """Whether the drawings have pages of several shapes: each would be compiled for itself."""
        return len({moments.shape for moments in self.batches.data.moments}) > 1

    def zero_grad(self) -> None:
        """Fill the gradients with zeros, where they are: a CUDA graph adds to the tensors it was recorded with."""
        for parameter in self.denoiser.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.denoiser.zero_grad(set_to_none=False)

    def backward(self, step: int) -> Tensor:
        """Compute the gradients of step 1, 2, …; returns the mean loss of this process's share of the effective batch.

        If memory runs out, the step is repeated in a way that takes less of it. UserError if no such way is left.
        """
        while True:
            try:
                return self._accumulate(step)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._make_room(step, error)
            self.zero_grad()
            free_memory()

    def _accumulate(self, step: int) -> Tensor:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        count = self.per_process // self.size
        losses = []
        for micro in range(count):
            first = (step - 1) * self.per_process * world + (micro * world + rank) * self.size
            losses.append(self._gradients(first, self.size, count, micro == count - 1))
        return torch.stack(losses).mean()

    def _gradients(self, first: int, size: int, count: int, is_last: bool) -> Tensor:
        """Add the gradients of the mean loss of `size` samples, divided by `count`; returns that mean."""
        losses = []
        batches = self.batches.draw_by_shape(first, size)
        for i, batch in enumerate(batches):
            # Processes exchange their gradients once, with the last part of the last micro-batch.
            is_exchanged = is_last and i == len(batches) - 1
            with nullcontext() if is_exchanged else self.accelerator.no_sync(self.model):
                with seeded_dropout(self.params, first):
                    loss = self.compute_loss(self.forward, batch.to(self.accelerator.device))
                loss = loss * (len(batch.latents) / size)
                self.accelerator.backward(self.scaler.scale(loss / count))
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _try(self, size: int) -> None:
        """Compute the gradients of `size` samples and drop them."""
        try:
            self._gradients(0, size, 1, is_last=False)
        finally:
            self.zero_grad()

    def _make_room(self, step: int, error: RuntimeError) -> None:
        unet = self.denoiser.unet
        if self.accelerator.num_processes > 1 and not (unet.is_gradient_checkpointing and self.size == 1):
            # The other processes wait for this one's gradients, so one alone cannot repeat a step.
            raise UserError(
                f"out of memory at step {step}; set train.micro_batch_size (now {self.size}) lower or "
                "train.gradient_checkpointing: true"
            ) from error
        if self.size > 1:
            self.size = divisors(self.size)[-2]
            tqdm.write(f"out of memory at step {step}: going on with {self.size} samples at once")
        elif not unet.is_gradient_checkpointing:
            tqdm.write(f"out of memory at step {step}: going on with gradient checkpointing, about a third slower")
            unet.enable_gradient_checkpointing()
        else:
            raise UserError(
                f"out of memory at step {step} with one sample at once and gradient checkpointing; lower the "
                f"profile's resolution or train.rank ({self.params.rank})"
            ) from error


def pick_compile(params: TrainParams, device: torch.device, training_seconds: Callable[[], float]) -> str:
    """off, default or graphs; `auto` is graphs on CUDA for trainings that take at least PAYS_FROM without, else off.

    Not for `deterministic`: there the speed of the card must not decide what is computed.
    """
    if params.compile == "auto":
        can_pay = device.type == "cuda" and not params.deterministic
        return "graphs" if can_pay and training_seconds() >= PAYS_FROM else "off"
    if params.compile == "graphs" and device.type != "cuda":
        tqdm.write("train.compile: graphs needs a CUDA device; compiling without them")
        return "default"
    return params.compile


def pick_micro_batch_size(
    params: TrainParams,
    profile: TrainProfile,
    accelerator: Accelerator,
    make_gradients: Callable[[int], object],
    kept: float,
) -> int:
    """Samples at once: params' number, else the profile's batch, or as many as nine tenths of CUDA's free memory hold.

    Recorded graphs never give their memory to anything else, so with them `kept` bytes stay free for evaluations. On a
    CPU the memory is not looked at: another number gives other last bits, so a machine with more memory would give
    other bytes. `make_gradients(n)` is a trial with n samples. UserError for a number that does not divide the
    effective batch.
    """
    effective_batch_size = profile.batch_size * profile.gradient_accumulation_steps
    if params.micro_batch_size is not None:
        if effective_batch_size % params.micro_batch_size:
            raise UserError(
                f"params.yaml: train.micro_batch_size: found {params.micro_batch_size}, allowed: null or a divisor of "
                f"batch_size x gradient_accumulation_steps ({effective_batch_size})"
            )
        return params.micro_batch_size
    device = accelerator.device
    if effective_batch_size == 1 or device.type != "cuda":
        return profile.batch_size
    available = 0.9 * (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    if params.compile in ("auto", "graphs"):
        available -= kept
    return largest_fitting(effective_batch_size, lambda n: trial_memory(lambda: make_gradients(n)), available)


def largest_fitting(batch_size: int, memory_for: Callable[[int], float], available: float) -> int:
    """The largest divisor of batch_size that fits, by what one sample and two of them take."""
    one, two = memory_for(1), memory_for(2)
    fitting = [n for n in divisors(batch_size) if n == 1 or one + (n - 1) * (two - one) <= available]
    return max(fitting)


def divisors(n: int) -> list[int]:
    """All divisors of n in ascending order."""
    return [i for i in range(1, n + 1) if n % i == 0]


def cuda_memory(work: Callable[[], Result]) -> tuple[float, Result]:
    """The most bytes of a CUDA card that were allocated at once during `work`, and what it gives."""
    if not torch.cuda.is_available():
        return 0, work()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = work()
    return torch.cuda.max_memory_allocated(), result


def trial_memory(work: Callable[[], object]) -> float:
    """The most bytes that were allocated at once during `work`; infinite if the memory was too small for it."""
    try:
        return cuda_memory(work)[0]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return math.inf


def free_memory() -> None:
    """Give back what no tensor uses any more, after memory ran out, and forget how much was taken by then."""
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
