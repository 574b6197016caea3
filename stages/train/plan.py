"""How long a training is, by the profile's `steps` and `epochs` and the number of drawings to learn from.

It imports nothing heavy: main.py and the dashboard say the plan before anything starts.
"""

import math
from dataclasses import replace

from tattoo_lora.errors import UserError
from tattoo_lora.params import TrainProfile


def effective_batch_size(profile: TrainProfile, processes: int = 1) -> int:
    """Samples of one optimizer step."""
    return profile.batch_size * profile.gradient_accumulation_steps * processes


def planned(profile: TrainProfile, drawings: int, processes: int = 1) -> TrainProfile:
    """The profile with the steps that a training on so many drawings has: `steps` or `epochs`, whichever end first.

    Where epochs make a training shorter, its warm-up and its evaluations keep their shares of it. UserError for a
    warm-up that such a training would not outlast.
    """
    by_epochs = math.inf
    if profile.epochs is not None:
        by_epochs = math.ceil(profile.epochs * drawings / effective_batch_size(profile, processes))
    longest = by_epochs if profile.steps is None else profile.steps
    steps = min(longest, by_epochs)
    warmup_steps = profile.warmup_steps * steps // longest
    if warmup_steps >= steps:
        raise UserError(
            f"the profile's train.warmup_steps: found {warmup_steps}, allowed: less than the {steps} steps that "
            f"{profile.epochs:g} epochs of {drawings} drawings take; lower it, or raise train.epochs"
        )
    eval_every = math.ceil(profile.eval_every * steps / longest)  # up: no evaluation just before the last
    return replace(profile, steps=steps, warmup_steps=warmup_steps, eval_every=eval_every)
