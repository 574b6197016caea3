"""Micro-batches alone: how they are sized, what they do when memory runs out, and what they add up."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from conftest import ROOT
from test_train import EMBEDS, PARAMS, PROFILE, data, make_unet  # noqa: F401 (a fixture)

from stages.train.batches import Batches
from stages.train.denoiser import Denoiser
from stages.train.memory import MicroBatches
from tattoo_lora.errors import UserError
from tattoo_lora.params import load_profile

TRAINING = dataclasses.replace(load_profile("embedded", ROOT).train, batch_size=4, gradient_accumulation_steps=2)


OUT = torch.OutOfMemoryError("CUDA out of memory")


class Full:
    """A loss that grows with the samples' numbers, and runs out of memory where more than `room` are asked for."""

    def __init__(self, room=8, fails=0, error=OUT):
        self.room, self.fails, self.error, self.sizes = room, fails, error, []

    def __call__(self, forward, batch):
        self.sizes.append(len(batch.timesteps))
        if len(batch.timesteps) > self.room or self.fails > 0:
            self.fails -= 1
            raise self.error
        return next(p for p in forward.parameters() if p.requires_grad).sum() * batch.timesteps.float().mean()


@pytest.fixture
def make(data):  # noqa: F811
    def make(loss, **knobs):
        params = dataclasses.replace(PARAMS, **knobs)
        denoiser = Denoiser(make_unet(), EMBEDS)
        denoiser.unet.conv_in.weight.requires_grad_(True)
        batches = Batches(data, params, 0.0, 8, 1000)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        return MicroBatches(denoiser, batches, loss, Accelerator(cpu=True), scaler, TRAINING)

    return make


def gradient(micro_batches):
    return micro_batches.denoiser.unet.conv_in.weight.grad.clone()


def test_however_a_step_is_split_its_gradient_is_that_of_the_whole_batch(make):
    gradients = []
    for size in (8, 4, 2, 1):
        micro_batches = make(loss := Full(), micro_batch_size=size)
        micro_batches.choose_size()
        mean = micro_batches.backward(3)
        assert loss.sizes == [size] * (8 // size)
        gradients.append(gradient(micro_batches))
        expected = micro_batches.batches.draw(16, 8).timesteps.float().mean()
        weights = micro_batches.denoiser.unet.conv_in.weight.sum()
        torch.testing.assert_close(mean, (weights * expected).detach())
        torch.testing.assert_close(gradients[-1], expected.expand_as(gradients[-1]))


def test_on_a_cpu_as_many_samples_are_taken_as_the_profile_has(make):
    micro_batches = make(Full())
    micro_batches.choose_size()
    assert micro_batches.size == TRAINING.batch_size


@pytest.mark.parametrize("error", [OUT, RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)")])
def test_where_memory_runs_out_a_step_is_taken_in_smaller_parts_and_nothing_is_counted_twice(make, capsys, error):
    whole, cut = make(Full(), micro_batch_size=8), make(loss := Full(room=2, error=error), micro_batch_size=8)
    for micro_batches in (whole, cut):
        micro_batches.choose_size()
        micro_batches.backward(1)
    assert loss.sizes == [8, 4, 2, 2, 2, 2] and cut.size == 2
    torch.testing.assert_close(gradient(cut), gradient(whole))
    said = capsys.readouterr().out
    assert "at step 1: going on with 4 samples at once" in said and "with 2 samples at once" in said


def test_with_one_sample_checkpointing_is_next_and_then_an_error(make, capsys):
    micro_batches = make(Full(fails=1), micro_batch_size=1)
    micro_batches.choose_size()
    micro_batches.backward(2)
    assert micro_batches.denoiser.unet.is_gradient_checkpointing
    assert "at step 2: going on with gradient checkpointing" in capsys.readouterr().out
    micro_batches.compute_loss.fails = 1
    with pytest.raises(UserError, match="out of memory at step 3 with one sample at once and gradient checkpointing"):
        micro_batches.backward(3)


def test_a_trial_leaves_no_gradient(make):
    micro_batches = make(Full())
    micro_batches._try(2)
    assert not gradient(micro_batches).any()


def test_another_error_of_a_step_is_not_taken_for_one_of_memory(make):
    micro_batches = make(Full(fails=1, error=RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        micro_batches.backward(1)
    assert micro_batches.size == TRAINING.batch_size
