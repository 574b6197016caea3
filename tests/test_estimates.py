"""What is said about a training's time and memory before it starts."""

import os
import re

import pytest
import torch
from conftest import ROOT
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode

from tattoo_lora import estimates
from tattoo_lora.diffusion.checkpoint_file import LAYOUT
from tattoo_lora.estimates import Setting, counted_memory, counted_speed, duration, plan_training, record_speed
from tattoo_lora.params import BaseModel, load_profile

SD15 = Setting(load_profile("sd15", ROOT).base, 512, "auto")
MINIATURE = Setting(BaseModel(str(ROOT / "models/embedded/base"), None), 64, "auto")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(estimates, "FOLDER", tmp_path / "speed")


def test_the_figures_of_stable_diffusion_are_those_that_its_architecture_gives():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(LAYOUT, subfolder="unet"))
    unet.requires_grad_(False).to(torch.bfloat16)
    unet.add_adapter(LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    frozen = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        is_attention = tensor.ndim > 2 and tensor.shape[-3] == 8 and tensor.shape[-1] in (77, tensor.shape[-2])
        if storage._cdata not in frozen and not is_attention:  # a GPU's kernels do not keep the attention's matrices
            kept[storage._cdata] = storage
        return tensor

    latents, texts = (torch.empty(1, *shape, device="meta", dtype=torch.bfloat16) for shape in ((4, 64, 64), (77, 768)))
    with FlopCounterMode(display=False) as flops:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = unet(latents, torch.tensor([5], device="meta"), texts).sample.square().mean()
        loss.backward()
    assert flops.get_total_flops() / 1e12 == pytest.approx(estimates.TFLOP, abs=0.005)
    assert sum(2 * p.numel() for p in unet.parameters() if not p.requires_grad) / 1e9 == pytest.approx(
        estimates.WEIGHTS, abs=0.005
    )
    assert sum(storage.nbytes() for storage in kept.values()) / 1e9 == pytest.approx(estimates.ACTIVATIONS, rel=0.1)


def test_the_plan_says_what_was_measured_and_before_that_what_is_computed():
    plan = plan_training(SD15, 20, 250, 8, False)
    cores = 250 * 8 * 1.72 / (0.11 * os.cpu_count())
    assert (plan.epochs, plan.is_measured) == (100, False) and plan.seconds == pytest.approx(cores)
    assert str(plan).startswith("250 steps of 8, 100 times through 20 drawings: about ")
    assert re.search(
        r"\(computed, so within a factor of two at best\), at least 6.0 GB of memory \(computed\)$", str(plan)
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
    ("device", "tflops"),
    [("NVIDIA GeForce RTX 3060", 25), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L40", None), ("Tesla T4", 65)],
)
def test_a_card_is_known_by_its_drivers_name(device, tflops):
    speed = counted_speed(512, device)
    assert speed == (tflops and pytest.approx(0.2 * tflops / 1.72))
    assert counted_speed(256, device) == (tflops and pytest.approx(4 * speed))


def test_checkpointing_a_smaller_picture_and_half_precision_take_less_memory():
    card = "NVIDIA GeForce RTX 3060"
    assert counted_memory(SD15, False, card) == pytest.approx(0.8 + 1.72 + 0.89)
    assert counted_memory(SD15, True, card) == pytest.approx(0.8 + 1.72 + 0.5)
    assert counted_memory(Setting(SD15.base, 256, "float32"), False, card) == pytest.approx(0.8 + 2 * (1.72 + 0.89 / 4))


def test_a_duration_is_said_in_the_unit_that_a_person_would_use():
    assert [duration(seconds) for seconds in (0.2, 75, 600, 7200)] == ["1 s", "75 s", "10 min", "2 h"]


def test_the_guides_table_of_cards_is_what_is_computed():
    guide = (ROOT / "docs/sd15.md").read_text(encoding="utf-8")
    for name, (memory, tflops) in estimates.CARDS.items():
        speed = counted_speed(512, name)
        row = f"| {name} | {memory} GB | {tflops:g} | {duration(20 * 100 / speed)} | {duration(1500 * 8 / speed)} |"
        assert row in guide
