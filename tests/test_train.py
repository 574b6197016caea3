import csv
import dataclasses
import io
import json
import math
import sys
import types
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from accelerate import Accelerator
from conftest import PROCESSED, ROOT, call, copy_project, sampler, set_value
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

import stages.train.__main__
from stages.train.__main__ import be_deterministic
from stages.train.batches import Batches, TrainingSet, seeded_dropout, shuffled
from stages.train.checkpoint import Checkpoints
from stages.train.denoiser import OPTIMIZERS, SCHEDULES, Denoiser, add_adapters, make_optimizer
from stages.train.loop import train
from stages.train.memory import COMPILE_MODES, PAYS_FROM, MicroBatches, largest_fitting, pick_compile
from stages.train.run import Log, Outputs
from tattoo_lora.data.captions import read_captions, write_caption
from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.diffusion.latents import scaled_means
from tattoo_lora.diffusion.lora import add_lora, save_lora
from tattoo_lora.diffusion.models import load_noise_scheduler
from tattoo_lora.diffusion.objective import min_snr_weights, prediction_target
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import load_pipeline, sample_images
from tattoo_lora.diffusion.validation import NOISE_SEED, band, timestep_grid, validation_losses
from tattoo_lora.errors import UserError
from tattoo_lora.params import InferenceProfile, Model, TrainParams, load_params, load_profile

PARAMS = load_params(ROOT).train
PROFILE = dataclasses.replace(load_profile("embedded", ROOT).train, steps=6, batch_size=2, eval_every=2, warmup_steps=0)


def make_unet():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
    )
    return unet.eval().requires_grad_(False)


@pytest.fixture
def unet():
    return make_unet()


EMBEDS = torch.randn(6, 7, 12, generator=torch.Generator().manual_seed(2))
NOISE_SCHEDULER = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return TrainingSet(torch.randn(5, 2, 8, 8, 8, generator=generator), torch.arange(1, 6)[:, None], 0.5)


@pytest.fixture
def oblong():
    """Five drawings on pages of three shapes, as `fit: bucket` makes them."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 8), (4, 16), (8, 8), (12, 4), (4, 16)]
    moments = [torch.randn(2, 8, *shape, generator=generator) for shape in shapes]
    return TrainingSet(moments, torch.arange(1, 6)[:, None], 0.5)


def make_text_encoder():
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=20,
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=7,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


def fit(unet, data, folder, params=PARAMS, profile=PROFILE, val_losses=None, text_encoder=None, scheduler=None):
    """Train with a stand-in for evaluation that gives the val_losses in turn; the log's rows."""
    remaining = iter(val_losses or [1.0] * 100)
    file = io.StringIO()
    if text_encoder is None:
        denoiser = Denoiser(unet, EMBEDS)
    else:
        input_ids = torch.randint(2, 20, (6, 7), generator=torch.Generator().manual_seed(3))
        denoiser = Denoiser(unet, None, text_encoder, input_ids)
    outputs = Outputs(
        lambda step: (next(remaining), 20.0),
        lambda name, step, val_loss: save_lora(folder / f"{name}.safetensors", unet, text_encoder, {}),
        Log(file),
        Checkpoints(str(folder / "checkpoints"), []),
    )
    effective = profile.batch_size * profile.gradient_accumulation_steps
    batches = Batches(data, params, 0.1, effective, NOISE_SCHEDULER.config.num_train_timesteps)
    train(denoiser, scheduler or NOISE_SCHEDULER, batches, params, profile, Accelerator(cpu=True), outputs)
    return list(csv.DictReader(io.StringIO(file.getvalue())))


def final(folder):
    return load_file(folder / "final.safetensors")


def moved(folder):
    """How far the adapter went from where it started, at zero."""
    return sum(tensor.square().sum().item() for key, tensor in final(folder).items() if "lora_B" in key) ** 0.5


def draw(data, first, size, dropout=0.0, effective=1, timesteps=1000, **knobs):
    return Batches(data, dataclasses.replace(PARAMS, **knobs), dropout, effective, timesteps).draw(first, size)


def test_what_is_drawn_does_not_depend_on_how_the_stream_is_split(data):
    shared = {"dropout": 0.5, "effective": 4, "noise_offset": 0.1}
    whole = draw(data, 0, 8, **shared)
    parts = [draw(data, first, size, **shared) for first, size in ((0, 3), (3, 5))]
    for field in dataclasses.fields(whole):
        joined = torch.cat([getattr(part, field.name) for part in parts])
        assert torch.equal(getattr(whole, field.name), joined)


def test_drawings_on_other_pages_come_in_batches_of_one_shape_and_are_the_same_samples(oblong):
    batches = Batches(oblong, PARAMS, 0.0, 4, 1000)
    whole, parts = batches.draw_by_shape(0, 10), [batches.draw_by_shape(first, 2) for first in range(0, 10, 2)]
    assert len(whole) == 3 and sum(len(batch.latents) for batch in whole) == 10
    for batch in whole:
        shape = batch.latents.shape[1:]
        alike = [part for several in parts for part in several if part.latents.shape[1:] == shape]
        for field in dataclasses.fields(batch):
            assert torch.equal(getattr(batch, field.name), torch.cat([getattr(part, field.name) for part in alike]))


def test_mixed_pages_are_not_compiled_unless_asked_for(oblong, data):
    def has_shapes(pages):
        return MicroBatches._has_shapes(types.SimpleNamespace(batches=types.SimpleNamespace(data=pages)))

    assert has_shapes(oblong) and not has_shapes(data)


def test_drawings_on_other_pages_are_validated_as_each_one_alone(unet, oblong):
    latents, hidden = scaled_means(oblong.moments, 0.5), EMBEDS[oblong.caption_rows[:, 0]]
    whole = validation_losses(unet, NOISE_SCHEDULER, latents, hidden, [100, 500], 4)
    for n, latent in enumerate(latents):
        alone = validation_losses(unet, NOISE_SCHEDULER, [latent], hidden[n : n + 1], [100, 500], 4, NOISE_SEED + n)
        assert torch.allclose(whole[n], alone[0], atol=1e-6)


def test_another_seed_draws_something_else(data):
    assert not torch.equal(draw(data, 0, 4, seed=3).noise, draw(data, 0, 4, seed=4).noise)


def test_an_epoch_visits_every_drawing_once():
    assert sorted(shuffled(0, 0, 7).tolist()) == list(range(7))
    assert shuffled(0, 0, 7).tolist() != shuffled(0, 1, 7).tolist()


def test_another_seed_visits_them_in_another_order():
    assert shuffled(0, 0, 20).tolist() != shuffled(1, 0, 20).tolist()


def marked(views, log_variance=-30.0):
    """Drawings whose latents tell which they are and which view: 10 x drawing + view, before scaling."""
    moments = torch.full((5, views, 8, 8, 8), log_variance)
    moments[:, :, :4] = (10 * torch.arange(5.0)[:, None] + torch.arange(views))[:, :, None, None, None]
    return TrainingSet(moments, torch.arange(1, 6)[:, None], 0.5)


def test_each_epoch_has_an_order_of_its_own(data):
    orders = draw(data, 0, 50).caption_rows.view(10, 5)
    assert (orders.sort().values == data.caption_rows[:, 0]).all()
    assert len(orders.unique(dim=0)) > 5


@pytest.mark.parametrize("views", [2, 6])
def test_all_views_are_drawn_as_often_as_each_other(views):
    values = draw(marked(views), 0, 400).latents[:, 0, 0, 0] / 0.5
    assert set(values.round().int().tolist()) == {10 * i + view for i in range(5) for view in range(views)}
    assert (values.round() % 10).mean().item() == pytest.approx((views - 1) / 2, rel=0.15)


def test_the_posteriors_noise_is_drawn_and_scaled_with_the_latents():
    first_only = dataclasses.replace(marked(1, 2 * math.log(3.0)), moments=marked(1, 2 * math.log(3.0)).moments[:1])
    latents = draw(first_only, 0, 40).latents
    assert latents.std().item() == pytest.approx(0.5 * 3.0, rel=0.05)  # 10,240 values
    assert latents.mean().item() == pytest.approx(0.0, abs=0.1)


def test_captions_are_dropped_for_the_share_asked_for(data):
    dropped = (draw(data, 0, 400, dropout=0.25).caption_rows == 0).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.07)
    assert (draw(data, 0, 40).caption_rows > 0).all()


def test_without_strata_timesteps_are_free_and_reach_both_ends(data):
    timesteps = draw(data, 0, 400, effective=4, timesteps=10, stratified_timesteps=False).timesteps
    assert set(timesteps.tolist()) == set(range(10))
    assert (timesteps.view(-1, 4) * 4 // 10 != torch.arange(4)).any()


def test_timesteps_cover_an_effective_batch_evenly_however_it_is_split(data):
    parts = [draw(data, first, 2, effective=8, timesteps=800).timesteps for first in range(8, 16, 2)]
    assert (torch.cat(parts) // 100).tolist() == list(range(8))
    free = draw(data, 0, 8, effective=8, timesteps=800, stratified_timesteps=False).timesteps
    assert (free // 100).tolist() != list(range(8))


def test_timesteps_are_drawn_from_all_that_the_scheduler_has(data):
    timesteps = draw(data, 0, 400, timesteps=10).timesteps
    assert sorted(set(timesteps.tolist())) == list(range(10))


def test_caption_dropout_replaces_captions_by_the_empty_one(data):
    assert draw(data, 0, 4, dropout=1.0).caption_rows.tolist() == [0, 0, 0, 0]
    assert 0 not in draw(data, 0, 4).caption_rows
    some = draw(data, 0, 400, dropout=0.25).caption_rows
    assert (some == 0).float().mean() == pytest.approx(0.25, abs=0.06)


def test_each_drawing_keeps_its_own_caption(data):
    moments = torch.zeros_like(data.moments)
    moments[:, :, :4] = torch.arange(5.0)[:, None, None, None, None]
    moments[:, :, 4:] = -30  # no posterior noise
    batch = draw(dataclasses.replace(data, moments=moments), 0, 5)
    drawn = (batch.latents[:, 0, 0, 0] / 0.5).round()
    assert (drawn + 1).tolist() == batch.caption_rows.tolist()


def test_of_several_captions_each_is_drawn_as_often_and_nothing_else_is_drawn_otherwise(data):
    rows = [torch.tensor([row]) for row in data.caption_rows[:4, 0]] + [torch.tensor([5, 6, 7, 8])]
    several = dataclasses.replace(data, caption_rows=rows)
    one, some = (draw(captions, 0, 1000, dropout=0.2) for captions in (data, several))
    for field in ("latents", "noise", "timesteps"):
        assert torch.equal(getattr(one, field), getattr(some, field))
    assert torch.equal(one.caption_rows, some.caption_rows.clamp(max=5))
    counts = some.caption_rows[some.caption_rows >= 5].bincount(minlength=9)[5:]
    assert counts.min() > 0.6 * counts.max() > 0  # of 160
    parts = torch.cat([draw(several, first, 10, dropout=0.2).caption_rows for first in (0, 10)])
    assert torch.equal(parts, some.caption_rows[:20])


def test_the_log_has_exactly_the_columns_and_a_row_for_each_evaluation(unet, data, tmp_path):
    rows = fit(unet, data, tmp_path, val_losses=[0.9, 0.8, 0.7, 0.6])
    assert list(rows[0]) == ["step", "train_loss", "val_loss", "clip_score"]
    assert [row["step"] for row in rows] == ["0", "2", "4", "6"]
    assert [row["val_loss"] for row in rows] == ["0.900000", "0.800000", "0.700000", "0.600000"]
    assert rows[0]["train_loss"] == "" and float(rows[1]["train_loss"]) > 0


def test_the_last_step_is_evaluated_whatever_their_number(unet, data, tmp_path):
    rows = fit(unet, data, tmp_path, profile=dataclasses.replace(PROFILE, steps=5))
    assert [row["step"] for row in rows if row["val_loss"]] == ["0", "2", "4", "5"]


def test_best_is_the_adapter_of_the_lowest_val_loss(unet, data, tmp_path):
    params = dataclasses.replace(PARAMS, save_every=2)
    fit(unet, data, tmp_path, params, val_losses=[0.1, 0.8, 0.3, 0.6])
    best = (tmp_path / "best.safetensors").read_bytes()
    assert best == (tmp_path / "step0004.safetensors").read_bytes()
    assert best != (tmp_path / "step0002.safetensors").read_bytes()
    assert (tmp_path / "final.safetensors").read_bytes() == (tmp_path / "step0006.safetensors").read_bytes()


def test_of_equal_val_losses_the_first_is_the_best(unet, data, tmp_path):
    fit(unet, data, tmp_path, dataclasses.replace(PARAMS, save_every=2), val_losses=[1.0, 0.5, 0.5, 0.5])
    assert (tmp_path / "best.safetensors").read_bytes() == (tmp_path / "step0002.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_bytes(data, tmp_path):
    for name in ("a", "b"):
        fit(make_unet(), data, tmp_path / name)
    assert (tmp_path / "a/final.safetensors").read_bytes() == (tmp_path / "b/final.safetensors").read_bytes()


def test_training_lowers_the_loss_on_what_it_sees(unet, data, tmp_path):
    profile = dataclasses.replace(PROFILE, steps=80, batch_size=8, eval_every=1000, learning_rate=1e-2)
    rows = fit(unet, data, tmp_path, profile=profile)
    assert float(rows[-1]["train_loss"]) < float(rows[1]["train_loss"])


@pytest.mark.parametrize("pages", ["data", "oblong"])
@pytest.mark.parametrize("batch_size, accumulation, at_once", [(2, 2, 2), (1, 4, 1), (4, 1, 1), (4, 1, None)])
def test_however_an_effective_batch_is_split_the_loss_is_the_same(
    request, pages, tmp_path, batch_size, accumulation, at_once
):
    data = request.getfixturevalue(pages)
    whole = fit(make_unet(), data, tmp_path / "a", profile=dataclasses.replace(PROFILE, batch_size=4))
    profile = dataclasses.replace(PROFILE, batch_size=batch_size, gradient_accumulation_steps=accumulation)
    unet = make_unet()
    sizes = batch_sizes(unet)
    parts = fit(unet, data, tmp_path / "b", dataclasses.replace(PARAMS, micro_batch_size=at_once), profile)
    assert pages == "oblong" or sizes == {at_once or batch_size}
    for one, other in zip(whole[1:], parts[1:], strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=1e-5)


def test_a_cpu_takes_the_profiles_batch_at_once_however_much_memory_it_has(data, tmp_path):
    unet = make_unet()
    sizes = batch_sizes(unet)
    fit(unet, data, tmp_path, profile=dataclasses.replace(PROFILE, batch_size=2, gradient_accumulation_steps=2))
    assert sizes == {2}


def batch_sizes(unet):
    """The sizes of the batches that the UNet is given from now on, as a set that fills."""
    sizes = set()
    unet.register_forward_pre_hook(lambda module, args: sizes.add(len(args[0])))
    return sizes


def test_a_micro_batch_that_does_not_divide_the_effective_one_is_refused(unet, data, tmp_path):
    with pytest.raises(UserError, match=r"train.micro_batch_size: found 3, allowed: null or a divisor of .* \(2\)"):
        fit(unet, data, tmp_path, dataclasses.replace(PARAMS, micro_batch_size=3))


def test_gradients_stay_in_the_tensors_that_a_cuda_graph_was_recorded_with(unet, data, tmp_path):
    places = set()

    def note(module, args):
        if torch.is_grad_enabled():
            places.add(tuple(p.grad.data_ptr() for p in module.parameters() if p.requires_grad))

    unet.register_forward_pre_hook(note)
    fit(unet, data, tmp_path, profile=dataclasses.replace(PROFILE, gradient_accumulation_steps=2))
    assert len(places) == 1


def test_the_largest_divisor_that_fits_is_found_from_one_sample_and_two():
    def memory_for(samples):
        return 3.0 + samples if samples <= 2 else pytest.fail("a trial too many")

    assert [largest_fitting(12, memory_for, available) for available in (99, 15, 14.9, 7, 3)] == [12, 12, 6, 4, 1]
    assert largest_fitting(8, lambda samples: float("inf"), 10) == 1  # one did not fit: training makes room
    assert largest_fitting(8, lambda samples: 4.0 if samples == 1 else float("inf"), 10) == 1


@pytest.mark.slow  # a minute of compiling
def test_a_compiled_unet_learns_what_the_eager_one_learns(data, tmp_path):
    # Of other layers some gradients are all but zero, and AdamW makes whole steps of their last bits.
    profile = dataclasses.replace(PROFILE, target_modules=["attention", "conv1", "conv2"], learning_rate=2.5e-3)
    eager = fit(make_unet(), data, tmp_path / "eager", dataclasses.replace(PARAMS, compile="off"), profile)
    compiled = fit(make_unet(), data, tmp_path / "compiled", dataclasses.replace(PARAMS, compile="default"), profile)
    for one, other in zip(eager[1:], compiled[1:], strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=1e-4)


@pytest.mark.slow
def test_where_compiling_fails_training_goes_on_without(data, tmp_path, capsys):
    torch.compiler.reset()
    without = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with torch._inductor.config.patch(without):
        rows = fit(make_unet(), data, tmp_path / "fallen back", dataclasses.replace(PARAMS, compile="default"))
    assert capsys.readouterr().out.count("train.compile: default fails here, going on without (") == 1
    assert rows == fit(make_unet(), data, tmp_path / "eager", dataclasses.replace(PARAMS, compile="off"))


def no_time() -> float:
    raise AssertionError("nothing is timed where the choice does not depend on it")


def test_graphs_without_cuda_say_so_and_compile_without_them(capsys):
    params = dataclasses.replace(PARAMS, compile="graphs")
    assert pick_compile(params, torch.device("cpu"), no_time) == "default"
    assert "train.compile: graphs needs a CUDA device; compiling without them" in capsys.readouterr().out
    assert pick_compile(params, torch.device("cuda"), no_time) == "graphs"


def test_graphs_are_the_choice_on_cuda_for_long_trainings_alone():
    params, cuda = dataclasses.replace(PARAMS, compile="auto"), torch.device("cuda")
    assert pick_compile(params, cuda, lambda: PAYS_FROM) == "graphs"
    assert pick_compile(params, cuda, lambda: PAYS_FROM - 1) == "off"
    assert pick_compile(params, torch.device("cpu"), no_time) == "off"
    assert pick_compile(dataclasses.replace(params, deterministic=True), cuda, no_time) == "off"


def test_deterministic_training_forbids_what_is_not(data, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        be_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        fit(make_unet(), data, tmp_path)  # nothing in a step is refused
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.enable_mem_efficient_sdp(True)


def test_clipping_bounds_the_step(data, tmp_path):
    # AdamW divides a gradient by its own size unless it is lost beside epsilon, so clip that far down.
    for name, norm in (("free", None), ("clipped", 1e-14)):
        params = dataclasses.replace(PARAMS, max_grad_norm=norm, weight_decay=0.0)
        fit(make_unet(), data, tmp_path / name, params)
    assert moved(tmp_path / "clipped") < moved(tmp_path / "free") / 100


def test_a_loss_that_is_not_finite_stops_with_the_weights_of_the_last_evaluation_before(data, tmp_path):
    for ema_decay in (None, 0.9):
        folder, params = tmp_path / str(ema_decay), dataclasses.replace(PARAMS, save_every=2, ema_decay=ema_decay)
        with pytest.raises(
            UserError, match="val_loss is nan at step 4; lower .*; the weights of step 2 are saved as fin"
        ):
            fit(make_unet(), data, folder, params, val_losses=[1.0, 0.9, math.nan])
        assert (folder / "final.safetensors").read_bytes() == (folder / "step0002.safetensors").read_bytes()


def test_a_training_that_diverges_before_it_was_measured_saves_nothing(unet, data, tmp_path):
    poisoned = dataclasses.replace(data, moments=torch.full_like(data.moments, math.nan))
    with pytest.raises(UserError, match="train_loss is nan at step 2; lower learning_rate .*; nothing is saved"):
        fit(unet, poisoned, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_no_snapshot_holds_weights_that_are_not_finite(unet, data, tmp_path):
    """A step whose loss is fine may still ruin the weights: a run that goes on from it could not be saved."""
    profile = dataclasses.replace(PROFILE, eval_every=1, steps=3, learning_rate=math.inf)
    with pytest.raises(UserError, match="train_loss is nan at step 2"):
        fit(unet, data, tmp_path, dataclasses.replace(PARAMS, checkpoint_every=1), profile)
    assert not list((tmp_path / "checkpoints").glob("step*"))


def test_a_base_model_that_is_not_finite_stops_before_training(unet, data, tmp_path):
    with pytest.raises(
        UserError, match="val_loss is nan before any training; .* out of range in float32: set the prof"
    ):
        fit(unet, data, tmp_path, val_losses=[math.nan])


def test_gradients_too_small_for_float16_are_learned_from(data, tmp_path):
    """Without a scaler they round to nothing, and the adapter stays where it started."""
    tiny = dataclasses.replace(data, moments=data.moments * 1e-4)  # the loss hardly depends on them
    unet = make_unet().half()
    unet.conv_out.weight.mul_(1e-4)
    unet.conv_out.bias.zero_()
    fit(unet, tiny, tmp_path, dataclasses.replace(PARAMS, weight_decay=0.0))
    changed = [tensor for key, tensor in final(tmp_path).items() if "lora_B" in key]
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in changed)
    assert sum(bool(tensor.any()) for tensor in changed) == len(changed)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("pages", "optimizer", "checkpoint_every", "checkpoint_minutes"),
    [
        ("data", "adamw", 2, None),
        ("oblong", "adamw", 2, None),
        ("data", "adamw", 1000, 0.0),
        ("data", "adamw_8bit", 2, None),
        ("data", "prodigy", 2, None),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bytes(
    request, tmp_path, pages, optimizer, checkpoint_every, checkpoint_minutes
):
    """Everything that has a state: the optimizer, the schedule, the average, dropout."""
    data = request.getfixturevalue(pages)
    knobs = {"ema_decay": 0.9, "lora_dropout": 0.3, "optimizer": optimizer, "rank": 256}
    knobs |= {"checkpoint_every": checkpoint_every, "checkpoint_minutes": checkpoint_minutes}
    params = dataclasses.replace(PARAMS, **knobs)
    whole = fit(make_unet(), data, tmp_path / "whole", params)

    def val_losses():
        yield from (1.0, 1.0, 1.0)
        raise Killed

    with pytest.raises(Killed):  # at step 6, after the checkpoint of step 4
        fit(make_unet(), data, tmp_path / "cut", params, val_losses=val_losses())
    resumed = fit(make_unet(), data, tmp_path / "cut", params)
    assert resumed == whole[3:]
    assert (tmp_path / "cut/final.safetensors").read_bytes() == (tmp_path / "whole/final.safetensors").read_bytes()


def test_the_last_step_is_measured_whatever_its_number(unet, data, tmp_path):
    rows = fit(unet, data, tmp_path, profile=dataclasses.replace(PROFILE, steps=5))
    assert [row["step"] for row in rows if row["val_loss"]] == ["0", "2", "4", "5"]


def test_early_stop_ends_the_run(unet, data, tmp_path):
    params = dataclasses.replace(PARAMS, early_stop_evals=2)
    profile = dataclasses.replace(PROFILE, steps=40)
    rows = fit(unet, data, tmp_path, params, profile, val_losses=[1.0, 0.5, 0.6, 0.7, 0.1])
    assert [row["step"] for row in rows if row["val_loss"]] == ["0", "2", "4", "6"]


CONFIG = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")


def test_adapters_of_a_half_precision_model_are_float32(unet):
    lora_params = add_lora(unet.to(torch.bfloat16), CONFIG, seed=0)
    assert {parameter.dtype for parameter in lora_params} == {torch.float32}


def test_adding_an_adapter_leaves_the_global_random_state_alone(unet):
    before = torch.get_rng_state()
    add_lora(unet, CONFIG, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def first_weights(folder, data, **knobs):
    """The adapter's A as it began, but for a step too small to see."""
    fit_with(folder, data, dataclasses.replace(PROFILE, steps=1, learning_rate=1e-8), **knobs)
    return torch.cat([tensor.flatten() for key, tensor in sorted(final(folder).items()) if "lora_A" in key])


def test_the_adapter_begins_as_its_seed_says(data, tmp_path):
    first, again, other = (
        first_weights(tmp_path / name, data, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.01
    assert first.std().item() == pytest.approx(1 / PARAMS.rank, rel=0.05)  # peft's "gaussian"


def test_weight_decay_pulls_the_adapter_to_zero(data, tmp_path):
    profile = dataclasses.replace(PROFILE, learning_rate=0.1)
    sizes = {}
    for decay in (0.0, 1.0):
        fit_with(tmp_path / str(decay), data, profile, weight_decay=decay)
        sizes[decay] = sum(
            t.square().sum().item() for key, t in final(tmp_path / str(decay)).items() if "lora_A" in key
        )
    assert sizes[1.0] < 0.8 * sizes[0.0]


def test_the_learning_rate_rises_from_zero_over_the_warm_up(data, tmp_path):
    profile = dataclasses.replace(PROFILE, steps=4, warmup_steps=2)
    fit_with(tmp_path, data, profile, schedule="constant", weight_decay=0.0, save_every=1)
    steps = [load_file(tmp_path / f"step000{step}.safetensors") for step in (1, 2, 3)]
    # AdamW moves a weight by the learning rate at most, and one of steady gradient by just that.
    farthest = [
        max((after[key] - before[key]).abs().max().item() for key in after if "lora_B" in key) / profile.learning_rate
        for before, after in zip(steps, steps[1:], strict=False)
    ]
    assert all(not tensor.any() for key, tensor in steps[0].items() if "lora_B" in key)
    assert farthest == pytest.approx([0.5, 1.0], rel=0.1)


def val_losses(unet, data, batch_size=16, drawings=slice(None), timesteps=10):
    latents, hidden = data.moments[drawings, 0, :4], EMBEDS[1:][drawings]
    return validation_losses(unet, NOISE_SCHEDULER, latents, hidden, timestep_grid(timesteps, 1000), batch_size)


def test_an_untrained_adapter_changes_nothing(unet, data):
    before = val_losses(unet, data)
    add_lora(unet, CONFIG, seed=0)
    assert torch.equal(val_losses(unet, data), before)


def test_val_loss_does_not_depend_on_the_batch_size_or_the_other_drawings(unet, data):
    whole = val_losses(unet, data)
    assert whole.shape == (5, 10)
    for size in (1, 7, 64):
        assert torch.allclose(val_losses(unet, data, size), whole, atol=1e-6)
    assert torch.allclose(val_losses(unet, data, drawings=slice(2)), whole[:2], atol=1e-6)


def test_each_drawing_and_timestep_has_noise_of_its_own(unet, data):
    unet.conv_out.weight.zero_()
    unet.conv_out.bias.zero_()  # nothing is predicted: the loss is the noise's mean square
    losses = val_losses(unet, data)
    assert len(losses.unique()) == losses.numel()
    assert losses.mean().item() == pytest.approx(1.0, abs=0.05)


def test_each_drawing_is_validated_with_its_own_caption(unet, data):
    latents, hidden = scaled_means(data.moments, data.scaling_factor), EMBEDS[data.caption_rows[:, 0]]
    grid = timestep_grid(3, 1000)
    whole = validation_losses(unet, NOISE_SCHEDULER, latents, hidden, grid, 4)
    for i in range(len(latents)):
        alone = validation_losses(
            unet, NOISE_SCHEDULER, latents[i : i + 1], hidden[i : i + 1], grid, 4, noise_seed=NOISE_SEED + i
        )
        assert torch.allclose(whole[i], alone[0], atol=1e-6)
    assert not torch.allclose(
        whole, validation_losses(unet, NOISE_SCHEDULER, latents, hidden.flip(0), grid, 4), atol=1e-6
    )


def test_timesteps_are_spread_evenly_and_fall_into_three_bands():
    grid = timestep_grid(10, 1000)
    assert grid == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]
    assert [band(t, 1000) for t in grid] == ["low"] * 3 + ["mid"] * 4 + ["high"] * 3
    assert [band(t, 1000) for t in (0, 333, 334, 666, 667, 999)] == ["low", "low", "mid", "mid", "high", "high"]


def test_params_allow_just_what_the_tables_of_training_serve():
    allowed = typing.get_type_hints(TrainParams)
    assert set(typing.get_args(allowed["optimizer"])) == set(OPTIMIZERS)
    assert set(typing.get_args(allowed["schedule"])) == set(SCHEDULES)
    assert set(typing.get_args(allowed["compile"])) == {"auto", "off", *COMPILE_MODES}
    dtypes = typing.get_args(typing.get_type_hints(InferenceProfile)["dtype"])
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in dtypes if name != "auto")


def fit_with(folder, data, profile=PROFILE, text_encoder=None, scheduler=None, **knobs):
    return fit(
        make_unet(),
        data,
        folder,
        dataclasses.replace(PARAMS, **knobs),
        profile,
        text_encoder=text_encoder,
        scheduler=scheduler,
    )


def test_rank_is_the_size_of_the_adapter_and_alpha_scales_it(data, tmp_path):
    fit_with(tmp_path / "a", data, rank=2, alpha=2.0)
    fit_with(tmp_path / "b", data, rank=2, alpha=200.0)
    assert {tensor.shape[0] for key, tensor in final(tmp_path / "a").items() if "lora_A" in key} == {2}
    # The same weights count a hundred times as much, so their gradients differ after the first step.
    assert moved(tmp_path / "a") != moved(tmp_path / "b")


def alphas(folder):
    """Each layer's rank and alpha in kohya's file."""
    kohya = load_file(folder / "final.kohya.safetensors")
    layers = [key.removesuffix(".alpha") for key in kohya if key.endswith(".alpha")]
    return {name: (len(kohya[f"{name}.lora_down.weight"]), kohya[f"{name}.alpha"].item()) for name in layers}


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 2 / 4), (True, 2 / 4**0.5)])
def test_layers_have_ranks_of_their_own_and_all_the_same_scale(data, tmp_path, use_rslora, scale):
    profile = dataclasses.replace(PROFILE, target_modules=["all"], steps=1)
    knobs = {"rank": 4, "ranks": {"ff": 2, "to_q": 1}, "alpha": 2.0, "use_rslora": use_rslora}
    unet = make_unet()
    add_adapters(Denoiser(unet, EMBEDS), dataclasses.replace(PARAMS, **knobs), profile)
    scales = [layer.scaling["default"] for layer in unet.modules() if hasattr(layer, "scaling")]
    assert len(scales) == 4 * 12 and scales == pytest.approx([scale] * len(scales))  # in training
    fit_with(tmp_path, data, profile, **knobs)
    by_layer = alphas(tmp_path)  # and in the file
    ranks = {"ff_net_0_proj": 2, "ff_net_2": 2, "to_q": 1, "to_v": 4, "proj_in": 4}
    for suffix, rank in ranks.items():
        assert {value for name, value in by_layer.items() if name.endswith(suffix)} == {(rank, scale * rank)}
    assert len(by_layer) == 4 * 12  # in each block eight of attention, two of feed-forward, two projections


def test_a_rank_for_layers_that_do_not_learn_is_refused(data, tmp_path):
    profile = dataclasses.replace(PROFILE, target_modules=["attention", "conv1"])
    with pytest.raises(
        UserError, match=r"train.ranks: found ff, allowed: sets \(attention, self-attention, .* \(attention, conv1\)"
    ):
        fit_with(tmp_path, data, profile, ranks={"ff": 4})


def test_lora_plus_teaches_b_faster_in_a_group_of_its_own(data, tmp_path):
    """Adam's first step is as long as its learning rate, whatever the gradient."""
    profile = dataclasses.replace(PROFILE, steps=1, learning_rate=1e-3)
    for name, ratio in (("plain", None), ("one", 1.0), ("plus", 16.0)):
        fit_with(tmp_path / name, data, profile, lora_plus_ratio=ratio, weight_decay=0.0, schedule="constant")
    plain, one, plus = (final(tmp_path / name) for name in ("plain", "one", "plus"))
    for key, tensor in plain.items():
        assert torch.equal(tensor, one[key])
        assert torch.allclose(plus[key], tensor * (16 if "lora_B" in key else 1), rtol=1e-3, atol=1e-7), key


def test_convolutions_are_adapted_when_named(data, tmp_path):
    fit_with(tmp_path, data, profile=dataclasses.replace(PROFILE, target_modules=["conv1", "proj_in", "to_q"]))
    shapes = {key: tuple(tensor.shape) for key, tensor in final(tmp_path).items()}
    assert shapes["unet.down_blocks.0.resnets.0.conv1.lora_A.weight"] == (8, 16, 3, 3)
    assert shapes["unet.down_blocks.0.resnets.0.conv1.lora_B.weight"] == (16, 8, 1, 1)
    kohya = load_file(tmp_path / "final.kohya.safetensors")
    assert kohya["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (8, 16, 3, 3)
    assert any("proj_in" in key and tensor.abs().max() > 0 for key, tensor in kohya.items() if "lora_up" in key)


def test_a_target_that_no_layer_is_called_is_named(data, tmp_path):
    with pytest.raises(UserError, match="the profile's target_modules: no layer of the model is called to_z"):
        fit_with(tmp_path, data, profile=dataclasses.replace(PROFILE, target_modules=["to_q", "to_z"]))


def test_samples_have_dropouts_of_their_own_and_the_global_generator_stays():
    params, drawn = dataclasses.replace(PARAMS, lora_dropout=0.5), []
    before = torch.get_rng_state()
    for first in (0, 4, 0):
        with seeded_dropout(params, first):
            drawn.append(torch.rand(8))
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_lora_dropout_changes_training_the_same_way_twice(data, tmp_path):
    rows = [fit_with(tmp_path / name, data, lora_dropout=p) for name, p in (("a", 0.5), ("b", 0.5), ("c", 0.0))]
    assert (tmp_path / "a/final.safetensors").read_bytes() == (tmp_path / "b/final.safetensors").read_bytes()
    assert rows[0] == rows[1] != rows[2]


def test_lora_dropout_drops_something_else_at_each_step(data, tmp_path):
    masks = []

    def remember(module, args, output):
        if isinstance(module, torch.nn.Dropout) and module.p > 0:
            masks.append((output == 0).flatten()[:100])

    with torch.nn.modules.module.register_module_forward_hook(remember):
        fit_with(tmp_path, data, dataclasses.replace(PROFILE, target_modules=["to_q"]), lora_dropout=0.5)
    first_of_step = torch.stack(masks[:: len(masks) // PROFILE.steps])
    assert len(first_of_step) == len(first_of_step.unique(dim=0)) == PROFILE.steps


def test_dora_trains_magnitudes_and_is_written_for_diffusers_only(data, tmp_path):
    fit_with(tmp_path, data, use_dora=True)
    assert any("lora_magnitude_vector" in key for key in final(tmp_path))
    assert not (tmp_path / "final.kohya.safetensors").exists()


def test_the_text_encoder_learns_when_it_has_a_learning_rate(data, tmp_path):
    for name, lr in (("a", 1e-2), ("b", 1e-4)):
        fit_with(tmp_path / name, data, text_encoder=make_text_encoder(), text_encoder_lr=lr)
    sizes = {}
    for name in ("a", "b"):
        text_tensors = {
            key: tensor for key, tensor in final(tmp_path / name).items() if key.startswith("text_encoder.")
        }
        assert len(text_tensors) == 2 * 4 * 2
        sizes[name] = max(tensor.abs().max().item() for key, tensor in text_tensors.items() if "lora_B" in key)
    assert 0 < sizes["b"] < sizes["a"] / 10
    kohya = load_file(tmp_path / "a/final.kohya.safetensors")
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in kohya


def test_min_snr_caps_the_weight_of_clean_timesteps():
    timesteps = torch.tensor([10, 500, 990])
    snr = NOISE_SCHEDULER.alphas_cumprod[timesteps] / (1 - NOISE_SCHEDULER.alphas_cumprod[timesteps])
    assert snr[0] > 5 > snr[1]
    weights = min_snr_weights(NOISE_SCHEDULER, timesteps, 5.0)
    assert weights.tolist() == pytest.approx([5 / snr[0].item(), 1.0, 1.0])
    velocity = DDPMScheduler.from_config(NOISE_SCHEDULER.config, prediction_type="v_prediction")
    assert min_snr_weights(velocity, timesteps, 5.0)[0] == pytest.approx(5 / (snr[0].item() + 1))


def test_min_snr_lowers_the_training_loss(data, tmp_path):
    plain, weighted = (
        fit_with(tmp_path / str(gamma), data, dataclasses.replace(PROFILE, min_snr_gamma=gamma))
        for gamma in (None, 0.1)
    )
    assert float(weighted[1]["train_loss"]) < float(plain[1]["train_loss"])


def test_noise_offset_shifts_whole_channels(data):
    plain, offset = (draw(data, 0, 200, noise_offset=share).noise.mean(dim=(2, 3)) for share in (0.0, 0.5))
    assert plain.std() == pytest.approx(1 / 8, rel=0.1)  # the mean of 64 values
    assert offset.std() == pytest.approx((1 / 64 + 0.25) ** 0.5, rel=0.1)
    assert offset.std(dim=1).mean() > 0.35  # each channel by its own


def test_the_target_is_what_the_models_scheduler_says(data, tmp_path):
    velocity = DDPMScheduler.from_config(NOISE_SCHEDULER.config, prediction_type="v_prediction")
    x, noise, timesteps = torch.ones(1, 4, 8, 8), torch.full((1, 4, 8, 8), 2.0), torch.tensor([400])
    alpha = NOISE_SCHEDULER.alphas_cumprod[400]
    expected = alpha.sqrt() * 2 - (1 - alpha).sqrt() * 1
    assert prediction_target(NOISE_SCHEDULER, x, noise, timesteps) is noise
    assert prediction_target(velocity, x, noise, timesteps)[0, 0, 0, 0] == pytest.approx(expected.item())
    rows = [fit_with(tmp_path / str(i), data, scheduler=s) for i, s in enumerate((NOISE_SCHEDULER, velocity))]
    assert rows[0][1]["train_loss"] != rows[1][1]["train_loss"]
    other = DDPMScheduler.from_config(NOISE_SCHEDULER.config, prediction_type="sample")
    with pytest.raises(UserError, match="the base model predicts 'sample'; known are epsilon and v_prediction"):
        prediction_target(other, x, noise, timesteps)


@pytest.mark.parametrize("knobs", [{"lora_plus_ratio": 2.0, "text_encoder_lr": 2.5e-3}, {"text_encoder_lr": 1e-5}])
def test_prodigy_with_two_learning_rates_is_refused(data, tmp_path, knobs):
    with pytest.raises(
        UserError, match="train.optimizer: prodigy finds one learning rate for all; set lora_plus_ratio"
    ):
        fit_with(tmp_path, data, text_encoder=make_text_encoder(), optimizer="prodigy", **knobs)


def test_prodigy_finds_its_own_step_size(data, tmp_path):
    profile = dataclasses.replace(PROFILE, learning_rate=1.0)
    fit_with(tmp_path / "prodigy", data, profile, optimizer="prodigy")
    fit_with(tmp_path / "adamw", data, profile, optimizer="adamw")
    assert 0 < moved(tmp_path / "prodigy") < moved(tmp_path / "adamw") / 10


def test_adamw_8bit_keeps_its_state_in_eight_bits_and_goes_where_adamw_goes(data, tmp_path):
    parameter = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = make_optimizer([{"params": [parameter], "lr": 1e-2}], "adamw_8bit", 0.0)
    parameter.square().sum().backward()
    optimizer.step()
    assert optimizer.state[parameter]["state1"].dtype == optimizer.state[parameter]["state2"].dtype == torch.uint8
    for name in ("adamw", "adamw_8bit"):
        fit_with(tmp_path / name, data, optimizer=name, rank=256)
    plain, eight_bit = final(tmp_path / "adamw"), final(tmp_path / "adamw_8bit")
    difference = sum((eight_bit[key] - tensor).square().sum().item() for key, tensor in plain.items()) ** 0.5
    assert 0 < difference < moved(tmp_path / "adamw") / 10


def test_an_optimizer_that_is_not_installed_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="train.optimizer: adamw_8bit needs bitsandbytes: `pip install bitsandbytes`"):
        make_optimizer([], "adamw_8bit", 0.0)


def test_schedules_end_as_they_are_called(data, tmp_path):
    last_step = {}
    for schedule in ("cosine", "linear", "constant"):
        fit_with(tmp_path / schedule, data, schedule=schedule, save_every=1)
        before, after = (load_file(tmp_path / schedule / f"step000{step}.safetensors") for step in (5, 6))
        last_step[schedule] = sum((after[key] - before[key]).abs().sum().item() for key in after)
    assert last_step["cosine"] < last_step["linear"] < last_step["constant"]


def test_the_moving_average_lags_behind_the_last_step(data, tmp_path):
    fit_with(tmp_path / "plain", data, schedule="constant")
    fit_with(tmp_path / "ema", data, schedule="constant", ema_decay=0.9)
    assert 0 < moved(tmp_path / "ema") < moved(tmp_path / "plain")


def test_evaluating_and_saving_leave_a_training_as_it_was(data, tmp_path):
    """With a moving average, which takes the weights' place for as long as they are measured or saved."""
    for name, every in (("often", 1), ("once", 6)):
        profile = dataclasses.replace(PROFILE, eval_every=every)
        fit_with(tmp_path / name, data, profile, ema_decay=0.9, save_every=every)
    assert (tmp_path / "often/final.safetensors").read_bytes() == (tmp_path / "once/final.safetensors").read_bytes()


def test_what_is_measured_is_the_moving_average(data, tmp_path):
    unet, seen = make_unet(), []
    params, profile = dataclasses.replace(PARAMS, ema_decay=0.9), dataclasses.replace(PROFILE, eval_every=6)

    def val_losses():
        for _ in range(2):
            seen.append({name: p.detach().clone() for name, p in unet.named_parameters() if "lora_" in name})
            yield 1.0

    fit(unet, data, tmp_path, params, profile, val_losses=val_losses())
    saved = torch.cat([tensor.flatten() for key, tensor in sorted(final(tmp_path).items()) if "lora_B" in key])
    measured = torch.cat([tensor.flatten() for key, tensor in sorted(seen[-1].items()) if "lora_B" in key])
    assert saved.norm().item() == pytest.approx(measured.norm().item(), rel=1e-6)


def test_gradient_checkpointing_changes_nothing_but_memory(data, tmp_path):
    rows = [fit_with(tmp_path / str(on), data, gradient_checkpointing=on) for on in (False, True)]
    for plain, checkpointed in zip(*rows, strict=True):
        assert plain["train_loss"] == checkpointed["train_loss"]


def run_out_of_memory(unet, times):
    """Make the UNet's forward fail as a full card does, `times` times from its second call on."""
    forward, calls = unet.forward, iter([False] + [True] * times)

    def full(*args, **kwargs):
        if next(calls, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    unet.forward = full


def test_out_of_memory_goes_on_with_fewer_samples_at_once(data, tmp_path, capsys):
    unet = make_unet()
    run_out_of_memory(unet, 1)
    sizes = batch_sizes(unet)
    profile = dataclasses.replace(PROFILE, batch_size=4, gradient_accumulation_steps=2)
    params = dataclasses.replace(PARAMS, micro_batch_size=4)
    rows = fit(unet, data, tmp_path / "full", params, profile)
    assert "out of memory at step 1: going on with 2 samples at once" in capsys.readouterr().out
    assert sizes == {4, 2}
    assert not unet.is_gradient_checkpointing
    for one, other in zip(rows[1:], fit(make_unet(), data, tmp_path / "roomy", params, profile)[1:], strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=1e-5)


def test_out_of_memory_with_one_sample_goes_on_with_checkpointing_and_the_same_result(data, tmp_path, capsys):
    profile = dataclasses.replace(PROFILE, batch_size=1, gradient_accumulation_steps=2)
    unet = make_unet()
    run_out_of_memory(unet, 1)  # in the middle of an effective batch
    params = dataclasses.replace(PARAMS, micro_batch_size=1)
    rows = fit(unet, data, tmp_path / "full", params, profile)
    assert "out of memory at step 1: going on with gradient checkpointing" in capsys.readouterr().out
    assert unet.is_gradient_checkpointing
    assert rows == fit(make_unet(), data, tmp_path / "roomy", params, profile)
    assert (tmp_path / "full/final.safetensors").read_bytes() == (tmp_path / "roomy/final.safetensors").read_bytes()


def test_out_of_memory_in_spite_of_both_says_what_to_lower(unet, data, tmp_path):
    run_out_of_memory(unet, 3)
    with pytest.raises(UserError, match=r"at step 2 with one sample .* resolution or train.rank \(8\)"):
        fit(unet, data, tmp_path)


FLASH = Path(PROCESSED)


@pytest.fixture(scope="module")
def trained(processed, tmp_path_factory):
    """One step of the command itself, for a variant with a trigger; the project and the log's rows."""
    project = copy_project(processed, tmp_path_factory.mktemp("trained") / "p")
    set_value(project / "params.yaml", "trigger", "inked")  # vanilla's
    set_value(project / "params.yaml", "caption_dropout", 0.3)
    for key, value in {"steps": 50, "epochs": 0.1}.items():  # the epochs end it, after the first step
        set_value(project / "profiles/embedded.yaml", key, value)
    for path in (project / FLASH / "captions_blip").iterdir():
        write_caption(path.parent, path.stem, path.read_text(encoding="utf-8"), f"{path.stem} in lines")
    options = (
        f"--latents {FLASH}/latents.safetensors --drawings {FLASH}/drawings.csv --captions {FLASH}/captions_blip "
        f"--lora lora --log-csv logs/log.csv --samples samples"
    )
    said = call(stages.train.__main__, project, "vanilla", *options.split())
    (project / "said.txt").write_text(said, encoding="utf-8")
    with (project / "logs/log.csv").open(encoding="utf-8") as file:
        return project, list(csv.DictReader(file))


@pytest.fixture(scope="module")
def by_hand(trained):
    """What the command should have worked with: the base; by split latents, texts' embeddings, rows of captions."""
    project, _ = trained
    count = load_params(project).train.val_drawings
    profile, base = load_profile("embedded", project), Model(str(ROOT / "models/embedded/base"), None)
    drawings = read_drawings(project / FLASH / "drawings.csv")
    captions = read_captions(project / FLASH / "captions_blip", [drawing.stem for drawing in drawings])
    stored, pipeline = load_file(project / FLASH / "latents.safetensors"), load_pipeline(base, profile.inference.dtype)

    def in_split(split, count=None):
        lowest = sorted(drawing.sha256 for drawing in drawings if drawing.split == split)[:count]
        chosen = [drawing for drawing in drawings if drawing.sha256 in lowest]
        texts = ["", *(f"inked, {captions[drawing.stem][i]}" for i in range(2) for drawing in chosen)]
        embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, texts)
        return [stored[drawing.file] for drawing in chosen], embeds, 1 + torch.arange(2 * len(chosen)).view(2, -1).T

    return types.SimpleNamespace(
        params=load_params(project),
        profile=profile,
        pipeline=pipeline,
        noise_scheduler=load_noise_scheduler(base),
        scaling_factor=pipeline.vae.config.scaling_factor,
        train=in_split("train"),
        val=in_split("val", count),
        seen=in_split("train", count),
    )


def test_the_command_validates_on_val_drawings_that_their_content_chooses_with_their_captions(trained, by_hand):
    """And on as many training drawings."""
    moments = by_hand.val[0] + by_hand.seen[0]
    embeds = torch.cat([embeds[rows[:, 0]] for _, embeds, rows in (by_hand.val, by_hand.seen)])  # the first captions
    losses = validation_losses(
        by_hand.pipeline.unet,
        by_hand.noise_scheduler,
        scaled_means(moments, by_hand.scaling_factor),
        embeds,
        timestep_grid(by_hand.params.train.val_timesteps, 1000),
        8,
    )
    val, seen = (half.mean().item() for half in losses.chunk(2))
    assert float(trained[1][0]["val_loss"]) == pytest.approx(val, abs=2e-5)
    written = json.loads((trained[0] / "samples/eval_step0000/losses.json").read_text())
    assert written == {"val_loss": pytest.approx(val, abs=2e-5), "seen_loss": pytest.approx(seen, abs=2e-5)}


def test_the_command_trains_on_the_other_drawings_with_their_captions(trained, by_hand):
    """The first step's loss, which no step has changed yet: the same drawings, captions, noise and timesteps."""
    moments, embeds, rows = by_hand.train
    data = TrainingSet(moments, rows, by_hand.scaling_factor)
    size = by_hand.profile.train.batch_size
    batch = Batches(data, by_hand.params.train, 0.3, size, 1000).draw(0, size)
    noisy_latents = by_hand.noise_scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    with torch.inference_mode():
        prediction = by_hand.pipeline.unet(noisy_latents, batch.timesteps, embeds[batch.caption_rows]).sample
    target = by_hand.noise_scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
    expected = F.mse_loss(prediction, target).item()
    assert float(trained[1][1]["train_loss"]) == pytest.approx(expected, abs=2e-5)


def test_the_command_draws_each_prompt_with_a_seed_of_its_own(trained, by_hand):
    params, pipeline = by_hand.params.train, by_hand.pipeline
    embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["", *params.prompts])
    seeds = [params.seed + i for i in range(len(params.prompts))]
    drawn = sample_images(pipeline, embeds[1:], embeds[:1], seeds, sampler(by_hand.profile, params.sampler_steps))
    for i, expected in enumerate(drawn):
        written = Image.open(trained[0] / f"samples/eval_step0000/prompt{i:02d}.png")
        assert np.abs(np.asarray(written, int) - np.asarray(expected, int)).max() <= 2


def test_the_command_says_its_plan(trained):
    said = (trained[0] / "said.txt").read_text(encoding="utf-8")
    assert "vanilla: 1 steps of 4, 0.8 times through 5 drawings: its time is not known yet\n" in said


def test_the_command_writes_what_it_learned_beside_its_log(trained):
    project, rows = trained
    assert [row["step"] for row in rows] == ["0", "1"]
    assert {path.name for path in (project / "lora").iterdir()} >= {
        "best.safetensors",
        "best.kohya.safetensors",
        "final.safetensors",
        "final.kohya.safetensors",
    }
    assert {path.name for path in (project / "samples").iterdir()} == {"eval_step0000", "eval_step0001"}
    assert not list((project / ".scratch").glob("train/*"))
