"""What is said about a training's time and memory before it starts."""

import os
import re

import pytest
import torch
from conftest import ROOT
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from tattoo_lora import estimates
from tattoo_lora.diffusion.checkpoint_file import LAYOUT
from tattoo_lora.diffusion.lora import add_lora
from tattoo_lora.estimates import (
    CARDS,
    Card,
    Setting,
    counted_memory,
    counted_speed,
    duration,
    find_card,
    is_float32,
    plan_training,
    record_speed,
)
from tattoo_lora.params import BaseModel, load_profile

SD15 = Setting(load_profile("sd15", ROOT).base, 512, "auto")
MINIATURE = Setting(BaseModel(str(ROOT / "models/embedded/base"), None), 64, "auto")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(estimates, "FOLDER", tmp_path / "speed")


ATTENTION = {  # torch counts a card's, not a CPU's; backward has four products where forward has two
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda _, q, k, v, *__, **___: 2 * sdpa_flop_count(q, k, v)
    ),
}
VIEWS = "view _unsafe_view t transpose permute expand slice select squeeze unsqueeze detach alias split"
NOTHING = {*VIEWS.split(), "as_strided", "unbind", "device", "empty"}


class Traffic(TorchDispatchMode):
    """The bytes that operations read and write: each tensor once an operation."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in NOTHING:
            self.count += sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor))
        return out


def test_the_figures_of_stable_diffusion_are_those_that_its_architecture_gives():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(LAYOUT, subfolder="unet"))
        unet.requires_grad_(False).to(torch.bfloat16)
        config = LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
        add_lora(unet, config, seed=0)
    with FakeTensorMode():  # on a CPU, whose attention is fused as a card's is
        for module in unet.modules():
            for name, p in module._parameters.items():
                fake = p if p is None else nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
                module._parameters[name] = fake
        frozen = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
        kept = {}

        def keep(tensor):
            if tensor.untyped_storage()._cdata not in frozen:
                kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
            return tensor

        latents, texts = (torch.empty(1, *shape, dtype=torch.bfloat16) for shape in ((4, 64, 64), (77, 768)))
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as flops, Traffic() as traffic:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = unet(latents, torch.tensor([5]), texts).sample.square().mean()
            loss.backward()
    weights = sum(2 * p.numel() for p in unet.parameters() if not p.requires_grad)
    saved = sum(storage.nbytes() for storage in kept.values()) / 1e9
    assert flops.get_total_flops() / 1e12 == pytest.approx(estimates.TFLOP, abs=0.005)
    assert weights / 1e9 == pytest.approx(estimates.WEIGHTS, abs=0.005)
    # At the peak some gradients are beside what is kept for backward.
    assert saved == pytest.approx(estimates.SAVED, rel=0.01) and saved < estimates.STEP[1] < 1.05 * saved
    assert traffic.count / 1e9 == pytest.approx(sum(estimates.TRAFFIC), rel=0.02)


def test_the_plan_says_what_was_measured_and_before_that_what_is_computed(monkeypatch):
    monkeypatch.setattr(estimates, "device_name", lambda: "CPU")
    plan = plan_training(SD15, 20, 250, 8, False)
    cores = 250 * 8 * 1.72 / (0.11 * os.cpu_count())
    assert (plan.epochs, plan.is_measured) == (100, False) and plan.seconds == pytest.approx(cores)
    assert str(plan).startswith("250 steps of 8, 100 times through 20 drawings: about ")
    assert re.search(
        r"\(computed, so within a factor of two at best\), at least 5.9 GB of memory \(computed\)$", str(plan)
    )
    record_speed(SD15, 100, 8, 400.0)
    assert (
        str(plan_training(SD15, 20, 250, 8, False)).partition(": ")[2].startswith("about 17 min (as fast as the last")
    )


def test_of_a_miniature_nothing_is_computed_and_a_few_steps_measure_nothing():
    assert str(plan_training(MINIATURE, 9, 4, 4, False)).endswith("9 drawings: its time is not known yet")
    record_speed(MINIATURE, 19, 4, 10.0)
    assert plan_training(MINIATURE, 9, 4, 4, False).seconds is None
    record_speed(MINIATURE, 20, 4, 10.0)
    assert plan_training(MINIATURE, 9, 4, 4, False).seconds == 2.0
    assert plan_training(SD15, 9, 4, 4, False).is_measured is False  # a speed is that of one base


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA GeForce RTX 3060", "RTX 3060"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40", None),
    ],
)
def test_a_card_is_known_by_its_drivers_name(driver, name):
    assert find_card(driver) == CARDS.get(name)
    assert (counted_speed(512, driver) is None) == (name is None)


def test_a_roofline_has_a_part_of_arithmetic_and_one_of_traffic(monkeypatch):
    monkeypatch.setattr(estimates, "TRAFFIC", (4.0, 10.0))
    slow, narrow = Card(8, 10.0, 1e9), Card(8, 1e9, 100.0)
    monkeypatch.setattr(estimates, "CARDS", {"slow": slow, "narrow": narrow})
    share, half = estimates.REACHED, estimates.STREAMED
    assert counted_speed(512, "slow", 4) == pytest.approx(share * 10 / 1.72)  # whatever the number at once
    assert counted_speed(256, "slow") == pytest.approx(4 * share * 10 / 1.72)
    assert counted_speed(512, "narrow") == pytest.approx(half * 100 / 14)
    assert counted_speed(512, "narrow", 4) == pytest.approx(half * 4 * 100 / 44)  # the weights are read once for all
    assert counted_speed(512, "narrow", 4, True) == pytest.approx(half * 3 * 100 / 44)


def test_bfloat16_on_a_cpu_trains_twice_as_fast():
    fast, slow = counted_speed(512, "CPU with bfloat16"), counted_speed(512, "CPU")
    assert 2 <= fast / slow <= 2.4


@pytest.mark.parametrize(
    ("samples", "is_checkpointed", "resolution", "in_float32", "expected"),
    [
        (1, True, 512, False, 1.72 + 0.33 + 0.81),  # while a picture is decoded
        (1, False, 512, False, 1.72 + 0.33 + 0.81),
        (4, False, 512, False, 1.73 + 4 * 0.83),
        (8, True, 512, False, 1.73 + 8 * 0.23),
        (8, False, 256, False, 1.73 + 2 * 0.83),
        (1, False, 256, True, 2 * 1.72 + 0.33 + 0.81 / 4),
        (2, False, 512, True, 2 * (1.73 + 2 * 0.83)),
    ],
)
def test_memory_is_that_of_a_step_or_of_an_evaluation(samples, is_checkpointed, resolution, in_float32, expected):
    assert counted_memory(samples, is_checkpointed, resolution, in_float32) == pytest.approx(0.8 + expected)


def test_on_a_cpu_an_evaluation_is_in_float32_whatever_the_training_is_in():
    assert counted_memory(1, True, 256, False, on_cpu=True) == counted_memory(1, True, 256, True)


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [("auto", "CPU", True), ("auto", "Apple's GPU", True), ("auto", "CPU with bfloat16", False)]
    + [("auto", "Tesla T4", False), ("float32", "Tesla T4", True), ("bfloat16", "CPU", False)],
)
def test_float32_takes_twice_the_memory_where_a_training_is_in_it(dtype, device, expected):
    assert is_float32(dtype, device) is expected


def test_a_duration_is_said_in_the_unit_that_a_person_would_use():
    assert [duration(seconds) for seconds in (0.2, 75, 600, 7200)] == ["1 s", "75 s", "10 min", "2 h"]


def test_the_guides_table_of_cards_is_what_is_computed():
    guide = (ROOT / "docs/sd15.md").read_text(encoding="utf-8")
    for name, card in CARDS.items():
        speed = counted_speed(512, name)
        numbers = f"{card.memory_gb} GB | {card.tflops:g} | {card.bandwidth}"
        assert f"| {name} | {numbers} | {duration(20 * 100 / speed)} | {duration(1500 * 8 / speed)} |" in guide
