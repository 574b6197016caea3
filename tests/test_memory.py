"""Micro-batches alone: how they are sized, what they do when memory runs out, and what they add up."""

import dataclasses
import types

import pytest
import torch
from accelerate import Accelerator
from conftest import ROOT
from test_train import EMBEDS, PARAMS, PROFILE, data, make_unet, oblong  # noqa: F401 (two fixtures)

from stages.train.batches import Batches
from stages.train.denoiser import Denoiser
from stages.train.evaluator import Evaluator
from stages.train.memory import MicroBatches, trial_memory
from tattoo_lora.diffusion.models import load_clip, load_noise_scheduler
from tattoo_lora.diffusion.sampling import Sampler, load_pipeline
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model, load_profile

TRAINING = dataclasses.replace(load_profile("embedded", ROOT).train, batch_size=4, gradient_accumulation_steps=2)


OUT = torch.OutOfMemoryError("CUDA out of memory")
MPS = RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)")


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


@pytest.mark.parametrize("error", [OUT, MPS])
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


def holds(unet, room):
    """Let the UNet run out of memory where it is given more than `room` latents at once; all that it was given."""
    sizes = []

    def check(module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    unet.conv_in.register_forward_pre_hook(check)
    return sizes


@pytest.fixture(scope="module")
def make_evaluator(tmp_path_factory):
    """Evaluators of the untrained miniature, by how many are computed at once."""
    profile = load_profile("embedded", ROOT)
    base, scorer = (Model(str(ROOT / model.id), None) for model in (profile.base, profile.clip))
    clip, processor = load_clip(scorer)

    def make(at_once):
        pipeline, generator = load_pipeline(base, "float32"), torch.Generator().manual_seed(0)
        config = pipeline.unet.config
        hidden = torch.randn(9, 77, config.cross_attention_dim, generator=generator)
        latents = torch.randn(4, config.in_channels, 8, 8, generator=generator)
        params = dataclasses.replace(PARAMS, prompts=PARAMS.prompts[:4], val_timesteps=2)
        texts = hidden[:4], hidden[4:8], hidden[8:]
        folder, sampler = tmp_path_factory.mktemp("samples"), Sampler(2, 4.0, 64, at_once)
        return Evaluator(
            *(pipeline, load_noise_scheduler(base), clip, processor, list(latents), 2, lambda: texts),
            *(params, sampler, folder),
        )

    return make


def test_where_memory_runs_out_in_an_evaluation_fewer_are_computed_at_once(make_evaluator, capsys):
    few, many = make_evaluator(2), make_evaluator(8)
    sizes = holds(many.pipeline.unet, room=4)  # with guidance a picture takes two
    assert many.measure(0) == few.measure(0)
    assert sizes[:4] == [8, 4, 4, 8] and max(sizes[4:]) == 4 and many.sampler.batch_size == 2
    said = capsys.readouterr().out
    assert "out of memory in an evaluation: going on with 4 at once" in said and "with 2 at once" in said
    assert {device.type for device in (many.pipeline.vae.device, many.clip.device)} == {"cpu"}
    assert many.measure(2) == few.measure(2) and "out of memory" not in capsys.readouterr().out


def test_an_evaluation_that_has_no_room_for_one_is_an_error(make_evaluator):
    evaluator = make_evaluator(2)
    holds(evaluator.pipeline.unet, room=0)
    with pytest.raises(torch.OutOfMemoryError):
        evaluator.measure(0)
    assert evaluator.sampler.batch_size == 1 and evaluator.seconds > 0


def test_where_one_has_no_room_beside_recorded_graphs_these_are_dropped(make, make_evaluator, capsys):
    evaluator, micro_batches = make_evaluator(1), make(Full())
    micro_batches.forward = torch.compile(micro_batches.model, backend="eager")
    expected = evaluator.measure(0)

    def full(module, args):
        if micro_batches.forward is not micro_batches.model:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    evaluator.pipeline.vae.decoder.register_forward_pre_hook(full)
    assert micro_batches.evaluate(lambda: evaluator.measure(0)) == expected
    assert micro_batches.forward is micro_batches.model
    assert "out of memory in an evaluation: going on without train.compile" in capsys.readouterr().out


@pytest.mark.parametrize("error", [OUT, ValueError("no room for a picture")])
def test_an_evaluation_that_fails_without_graphs_or_for_another_reason_fails(make, error):
    micro_batches = make(Full())
    if error is not OUT:
        micro_batches.forward = torch.compile(micro_batches.model, backend="eager")

    def fail():
        raise error

    with pytest.raises(type(error)):
        micro_batches.evaluate(fail)


@pytest.mark.parametrize("error, stays", [(OUT, True), (MPS, True), (RuntimeError("no compiler"), False)])
def test_a_trial_of_the_compiled_model_without_memory_leaves_it_to_the_first_step_to_make_room(
    make, capsys, error, stays
):
    micro_batches = make(Full(fails=1, error=error), compile="default")
    micro_batches.compile()
    assert (micro_batches.forward is not micro_batches.model) == stays
    assert ("fails here, going on without (RuntimeError: no compiler)" in capsys.readouterr().out) != stays


def test_how_long_a_training_takes_is_told_by_a_micro_batch_after_a_first_one(make, monkeypatch):
    clock = iter([10.0, 10.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    micro_batches = make(loss := Full())
    assert micro_batches._training_seconds() == 0.5 * TRAINING.steps * 2  # of four samples, of eight a step
    assert loss.sizes == [4, 4] and not gradient(micro_batches).any()


def test_of_several_processes_the_slowest_decides_for_all(make, monkeypatch):
    clock = iter([10.0, 10.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("stages.train.memory.gather_object", lambda own: [0.0, *own, 3.0])
    assert make(Full())._training_seconds() == max(0.5 * TRAINING.steps * 2, 3.0)
    assert make(Full(fails=1))._training_seconds() == 3.0


def test_mixed_pages_are_not_timed_to_see_whether_compiling_pays(make, oblong):  # noqa: F811
    micro_batches = make(loss := Full(), compile="auto")
    micro_batches.accelerator = types.SimpleNamespace(device=torch.device("cuda"))
    micro_batches.batches = dataclasses.replace(micro_batches.batches, data=oblong)
    micro_batches.compile()
    assert not loss.sizes and micro_batches.forward is micro_batches.model


def test_a_training_that_has_no_room_for_a_trial_is_not_compiled_and_other_errors_show(make):
    assert make(Full(fails=1))._training_seconds() == 0
    with pytest.raises(RuntimeError, match="shapes"):
        make(Full(fails=1, error=RuntimeError("shapes do not fit")))._training_seconds()


def test_a_trial_without_memory_takes_infinitely_much_and_other_errors_show():
    def fail(error):
        raise error

    assert trial_memory(lambda: fail(MPS)) == float("inf")
    with pytest.raises(RuntimeError, match="shapes"):
        trial_memory(lambda: fail(RuntimeError("shapes do not fit")))
