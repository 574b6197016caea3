"""A training's state alone: what it remembers, gives back and falls back on."""

import copy
import math

import pytest
import torch
from diffusers.training_utils import EMAModel

from stages.train.state import TrainState


@pytest.fixture
def make():
    def make(ema_decay=None):
        parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = torch.optim.AdamW([parameter], lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        ema = None if ema_decay is None else EMAModel([parameter], decay=ema_decay)
        state = TrainState([parameter], optimizer, scheduler, torch.amp.GradScaler("cpu", enabled=False), ema)

        def learn():
            parameter.square().sum().backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if ema is not None:
                ema.step([parameter])
            state.step += 1

        return state, learn

    return make


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_state_that_is_given_back_goes_on_as_if_nothing_had_been(make, ema_decay):
    (state, learn), (other, learn_other) = make(ema_decay), make(ema_decay)
    for _ in range(3):
        learn()
    state.record(0.5)
    other.load_state_dict(copy.deepcopy(state.state_dict()))
    assert (other.step, other.best_loss, other.evals_since_best) == (3, 0.5, 0)
    for step in (learn, learn_other):
        step()
    assert torch.equal(state.lora_params[0], other.lora_params[0])
    with state.averaged(), other.averaged():
        assert torch.equal(state.lora_params[0], other.lora_params[0])


def test_only_a_lower_loss_is_the_best(make):
    state, _ = make()
    assert [state.record(loss) for loss in (0.5, 0.5, 0.6, 0.4)] == [True, False, False, True]
    state.record(math.inf)
    assert (state.best_loss, state.evals_since_best) == (0.4, 1)


def test_it_falls_back_on_what_was_measured_last_the_average_where_there_is_one(make):
    state, learn = make(0.9)
    learn()  # from which the average starts
    learn()
    with state.averaged():
        measured = state.lora_params[0].detach().clone()
    state.record(1.0)
    learn()
    with torch.no_grad():
        state.lora_params[0].fill_(math.nan)
    assert not state.is_finite()
    assert state.fall_back() == 2 and state.is_finite()
    assert torch.equal(state.lora_params[0], measured)


def test_the_average_leaves_the_weights_as_they_were(make):
    state, learn = make(0.9)
    learn()  # from which the average starts
    learn()
    before = state.lora_params[0].detach().clone()
    with state.averaged():
        assert not torch.equal(state.lora_params[0], before)
    assert torch.equal(state.lora_params[0], before)
