import csv
import dataclasses
import io

import pytest
import torch
from accelerate import Accelerator
from conftest import ROOT
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from stages.train import Log, TrainingSet, draw_batch, shuffled, train
from tattoo_lora.errors import UserError
from tattoo_lora.lora import add_lora, save_lora
from tattoo_lora.params import load_params, load_profile
from tattoo_lora.validation import validation_loss

PARAMS = load_params(ROOT).train
PROFILE = dataclasses.replace(load_profile("embedded", ROOT), steps=6, batch_size=2, eval_every=2, warmup_steps=0)


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


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return TrainingSet(
        moments=torch.randn(5, 2, 8, 8, 8, generator=generator),
        caption_index=torch.tensor([1, 2, 3, 4, 5]),
        embeds=torch.randn(6, 7, 12, generator=generator),
        scaling_factor=0.5,
    )


def fit(unet, data, folder, params=PARAMS, profile=PROFILE, val_losses=None):
    """Train with a stand-in for evaluation that gives the val_losses in turn; the log's rows."""
    remaining = iter(val_losses or [1.0] * 100)
    file = io.StringIO()
    train(
        unet,
        DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        data,
        params,
        profile,
        0.1,
        Accelerator(gradient_accumulation_steps=profile.gradient_accumulation_steps, cpu=True),
        lambda step: (next(remaining), 20.0),
        Log(file),
        folder,
    )
    return list(csv.DictReader(io.StringIO(file.getvalue())))


def test_what_is_drawn_does_not_depend_on_how_the_stream_is_split(data):
    whole = draw_batch(data, 3, 0, 8, 0.5)
    parts = [draw_batch(data, 3, first, size, 0.5) for first, size in ((0, 3), (3, 5))]
    for field in dataclasses.fields(whole):
        joined = torch.cat([getattr(part, field.name) for part in parts])
        assert torch.equal(getattr(whole, field.name), joined)


def test_another_seed_draws_something_else(data):
    assert not torch.equal(draw_batch(data, 3, 0, 4, 0).noise, draw_batch(data, 4, 0, 4, 0).noise)


def test_an_epoch_visits_every_drawing_once():
    assert sorted(shuffled(0, 0, 7).tolist()) == list(range(7))
    assert shuffled(0, 0, 7).tolist() != shuffled(0, 1, 7).tolist()


def test_caption_dropout_replaces_captions_by_the_empty_one(data):
    assert torch.equal(draw_batch(data, 0, 0, 4, 1.0).encoder_hidden_states, data.embeds[[0, 0, 0, 0]])
    kept = draw_batch(data, 0, 0, 4, 0.0).encoder_hidden_states
    assert not any(torch.equal(row, data.embeds[0]) for row in kept)


def test_each_drawing_keeps_its_own_caption(data):
    moments = torch.zeros_like(data.moments)
    moments[:, :, :4] = torch.arange(5.0)[:, None, None, None, None]
    moments[:, :, 4:] = -30  # no posterior noise
    batch = draw_batch(dataclasses.replace(data, moments=moments), 0, 0, 5, 0.0)
    for latents, hidden in zip(batch.latents, batch.encoder_hidden_states, strict=True):
        assert torch.equal(hidden, data.embeds[round(latents[0, 0, 0].item() / 0.5) + 1])


def test_the_log_has_exactly_the_columns_and_a_row_for_each_evaluation(unet, data, tmp_path):
    rows = fit(unet, data, tmp_path, val_losses=[0.9, 0.8, 0.7, 0.6])
    assert list(rows[0]) == ["step", "train_loss", "val_loss", "clip_score"]
    assert [row["step"] for row in rows] == ["0", "2", "4", "6"]
    assert [row["val_loss"] for row in rows] == ["0.900000", "0.800000", "0.700000", "0.600000"]
    assert rows[0]["train_loss"] == "" and float(rows[1]["train_loss"]) > 0


def test_best_is_the_adapter_of_the_lowest_val_loss(unet, data, tmp_path):
    params = dataclasses.replace(PARAMS, save_every=2)
    fit(unet, data, tmp_path, params, val_losses=[0.1, 0.8, 0.3, 0.6])
    best = (tmp_path / "best.safetensors").read_bytes()
    assert best == (tmp_path / "step0004.safetensors").read_bytes()
    assert best != (tmp_path / "step0002.safetensors").read_bytes()
    assert (tmp_path / "final.safetensors").read_bytes() == (tmp_path / "step0006.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_bytes(data, tmp_path):
    for name in ("a", "b"):
        fit(make_unet(), data, tmp_path / name)
    assert (tmp_path / "a/final.safetensors").read_bytes() == (tmp_path / "b/final.safetensors").read_bytes()


def test_training_lowers_the_loss_on_what_it_sees(unet, data, tmp_path):
    profile = dataclasses.replace(PROFILE, steps=80, batch_size=8, eval_every=1000, learning_rate=1e-2)
    rows = fit(unet, data, tmp_path, profile=profile)
    assert float(rows[-1]["train_loss"]) < float(rows[1]["train_loss"])


def test_accumulation_gives_the_loss_of_the_whole_batch(data, tmp_path):
    whole = fit(make_unet(), data, tmp_path / "a", profile=dataclasses.replace(PROFILE, batch_size=4))
    split = dataclasses.replace(PROFILE, batch_size=1, gradient_accumulation_steps=4)
    parts = fit(make_unet(), data, tmp_path / "b", profile=split)
    for one, other in zip(whole[1:], parts[1:], strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=1e-5)


def test_clipping_bounds_the_step(data, tmp_path):
    # AdamW divides a gradient by its own size unless it is lost beside epsilon, so clip that far down.
    moved = {}
    for name, norm in (("free", None), ("clipped", 1e-14)):
        unet = make_unet()
        fit(unet, data, tmp_path / name, dataclasses.replace(PARAMS, max_grad_norm=norm, weight_decay=0.0))
        tensors = load_file(tmp_path / name / "final.safetensors")
        moved[name] = max(tensor.abs().max().item() for key, tensor in tensors.items() if ".up." in key)
    assert moved["clipped"] < moved["free"] / 100


def test_a_loss_that_is_not_finite_stops_with_the_last_good_weights(unet, data, tmp_path):
    moments = data.moments.clone()
    moments[:] = float("nan")
    poisoned = dataclasses.replace(data, moments=moments)
    with pytest.raises(UserError, match="train_loss is nan at step 2; lower learning_rate"):
        fit(unet, poisoned, tmp_path)
    tensors = load_file(tmp_path / "final.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_early_stop_ends_the_run(unet, data, tmp_path):
    params = dataclasses.replace(PARAMS, early_stop_evals=2)
    profile = dataclasses.replace(PROFILE, steps=40)
    rows = fit(unet, data, tmp_path, params, profile, val_losses=[1.0, 0.5, 0.6, 0.7, 0.1])
    assert [row["step"] for row in rows if row["val_loss"]] == ["0", "2", "4", "6"]


def test_adapters_of_a_half_precision_model_are_float32(unet):
    lora_params = add_lora(unet.to(torch.bfloat16), 4, 4, ["to_q"], seed=0)
    assert {parameter.dtype for parameter in lora_params} == {torch.float32}


def test_adding_an_adapter_leaves_the_global_random_state_alone(unet):
    before = torch.get_rng_state()
    add_lora(unet, 4, 4, ["to_q"], seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_an_untrained_adapter_changes_nothing(unet, data):
    noise_scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    latents, hidden = data.moments[:, 0, :4], data.embeds[1:]
    before = validation_loss(unet, noise_scheduler, latents, hidden, 16)
    add_lora(unet, 4, 4, ["to_q", "to_v"], seed=0)
    assert validation_loss(unet, noise_scheduler, latents, hidden, 16) == before


def test_val_loss_does_not_depend_on_the_batch_size(unet, data):
    noise_scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    losses = [
        validation_loss(unet, noise_scheduler, data.moments[:, 0, :4], data.embeds[1:], size) for size in (1, 7, 64)
    ]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)


def test_the_file_has_one_metadata_key_and_names_rank_and_alpha(unet, tmp_path):
    import json

    from safetensors import safe_open

    add_lora(unet, 4, 2, ["to_q"], seed=0)
    save_lora(tmp_path / "a.safetensors", unet)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert metadata == {"unet.r": 4, "unet.lora_alpha": 2, "unet.target_modules": ["to_q"]}
