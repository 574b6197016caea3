"""What goes wrong on a GPU alone, seen on a CPU: broken graphs, waits in each step, gradients clipped too early, and
tensors left on the CPU, which fake ones on a device that this machine lacks do not allow."""

import dataclasses
from collections import Counter
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch
from conftest import ROOT
from diffusers import DDPMScheduler
from PIL import Image
from test_train import EMBEDS, PARAMS, PROFILE, data, draw, fit, make_text_encoder, make_unet  # noqa: F401 (a fixture)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from stages.encode import encode_moments
from stages.train.denoiser import Denoiser, add_adapters
from stages.train.loop import batch_loss
from tattoo_lora.diffusion.models import load_clip, load_text_encoder, load_vae, measuring, measuring_dtype
from tattoo_lora.diffusion.prompts import encode_prompts
from tattoo_lora.diffusion.sampling import embed_images, embed_texts
from tattoo_lora.diffusion.tokenizer import load_tokenizer
from tattoo_lora.diffusion.validation import validation_losses
from tattoo_lora.params import Model


class Calls(TorchDispatchMode):
    """How often each operation is called, and how often each pair of dtypes is cast."""

    def __init__(self):
        super().__init__()
        self.count, self.casts = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.count[name] += 1
        if name == "_to_copy" and args[0].dtype != out.dtype:
            self.casts[args[0].dtype, out.dtype] += 1
        return out


def adapted(dtype, **knobs):
    denoiser = Denoiser(make_unet().to(dtype), EMBEDS)
    add_adapters(denoiser, dataclasses.replace(PARAMS, **knobs), PROFILE)
    return denoiser


BATCH = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.tensor([1, 2])


BREAKS = pytest.mark.xfail(strict=True, raises=torch._dynamo.exc.Unsupported)


@pytest.mark.parametrize(
    "knobs",
    [
        pytest.param({}, id="LoRA"),
        # Minutes of tracing.
        # peft's DoRA makes a Parameter in its forward, at which Dynamo breaks the graph.
        pytest.param({"use_dora": True, "lora_dropout": 0.1}, id="DoRA, dropout", marks=[pytest.mark.slow, BREAKS]),
    ],
)
def test_the_denoiser_with_its_adapters_is_one_graph(knobs):
    torch.compiler.reset()
    denoiser = adapted(torch.bfloat16, **knobs)
    compiled = torch.compile(denoiser, backend="aot_eager", fullgraph=True, dynamic=False)
    compiled(*BATCH).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.parameters() if p.requires_grad)


def test_nothing_but_the_adapters_weights_is_cast_in_half_precision():
    denoiser = adapted(torch.bfloat16)
    with Calls() as calls:
        denoiser(*BATCH)
    learning = sum(parameter.requires_grad for parameter in denoiser.parameters())
    # Beside them the latents, the texts and the embedding of the timesteps.
    assert calls.casts[torch.float32, torch.bfloat16] <= learning + 3
    assert calls.casts[torch.bfloat16, torch.float32] == 0


def test_a_step_without_a_row_reads_nothing_back(data, tmp_path):  # noqa: F811
    counts = []
    for steps in (2, 6):
        profile = dataclasses.replace(PROFILE, steps=steps, eval_every=100)
        params = dataclasses.replace(PARAMS, stratified_timesteps=False)
        with Calls() as calls:
            fit(make_unet(), data, tmp_path / str(steps), params, profile)
        counts.append(calls.count["_local_scalar_dense"])
    with Calls() as drawing:
        draw(data, 4, 8, 0.1, stratified_timesteps=False)
    # The samples of the four steps more read random numbers on the CPU, where they are drawn.
    assert counts[1] - counts[0] == drawing.count["_local_scalar_dense"]


def test_in_float16_the_norm_is_bounded_once_the_gradients_are_unscaled(data, tmp_path):  # noqa: F811
    norms = []

    def note(optimizer, args, kwargs):
        norms.append(torch.stack([p.grad.norm() for group in optimizer.param_groups for p in group["params"]]).norm())

    hook = register_optimizer_step_pre_hook(note)
    try:
        fit(make_unet().half(), data, tmp_path, dataclasses.replace(PARAMS, max_grad_norm=1e-3))
    finally:
        hook.remove()
    assert norms and all(norm.item() == pytest.approx(1e-3, rel=0.02) for norm in norms)


@pytest.mark.parametrize("device, dtype", [("cpu", torch.float32), ("cuda", torch.float16)])
def test_losses_are_not_measured_in_bfloat16(device, dtype):
    assert measuring_dtype(torch.bfloat16, torch.device(device)) == dtype
    assert measuring_dtype(torch.float16, torch.device(device)) == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_after_measuring_a_unet_has_its_own_bytes_back_where_they_lay(monkeypatch, dtype):
    monkeypatch.setattr("tattoo_lora.diffusion.models.measuring_dtype", lambda *_: dtype)
    unet = make_unet().to(torch.bfloat16)
    before = [(p.data_ptr(), p.clone()) for p in unet.parameters()]
    with measuring(unet):
        assert {p.dtype for p in unet.parameters()} == {dtype}
        assert all(torch.equal(p, old.to(dtype)) for p, (_, old) in zip(unet.parameters(), before, strict=True))
        if dtype == torch.float16:
            assert [p.data_ptr() for p in unet.parameters()] == [place for place, _ in before]
    if dtype == torch.float16:
        assert [p.data_ptr() for p in unet.parameters()] == [place for place, _ in before]
    assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}
    assert all(torch.equal(p, old) for p, (_, old) in zip(unet.parameters(), before, strict=True))


# Fake tensors have shapes, dtypes and devices, and no numbers. For this device torch need not be built, as for CUDA.
ELSEWHERE = torch.device("lazy")


@contextmanager
def elsewhere(*models):
    """Fake tensors meanwhile, those of the models on another device; an operation on two devices raises."""
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        # torch has no autocast for this device; in float32 it does nothing.
        with FakeTensorMode(allow_non_fake_inputs=True), mock.patch("torch.autocast", lambda *_, **__: nullcontext()):
            for model in models:
                model.to(ELSEWHERE)
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def noise_schedule(prediction_type="epsilon"):
    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction_type)  # it keeps what it moved


@pytest.mark.parametrize(
    "prediction_type, knobs", [("epsilon", {"use_dora": True}), ("v_prediction", {"text_encoder_lr": 1e-4})]
)
def test_a_step_is_computed_where_its_model_is(data, prediction_type, knobs):  # noqa: F811
    unet, texts = make_unet(), torch.randint(2, 20, (6, 7))
    learns_texts = "text_encoder_lr" in knobs
    denoiser = Denoiser(unet, None, make_text_encoder(), texts) if learns_texts else Denoiser(unet, EMBEDS)
    add_adapters(denoiser, dataclasses.replace(PARAMS, **knobs), PROFILE)
    batch = draw(data, 0, 2)
    with elsewhere(denoiser):
        loss = batch_loss(denoiser, batch.to(ELSEWHERE), noise_schedule(prediction_type), min_snr_gamma=5.0)
        loss.backward()
        gradients = [parameter.grad for parameter in denoiser.parameters() if parameter.requires_grad]
    assert loss.device.type == ELSEWHERE.type and loss.dtype == torch.float32
    assert {(gradient.device.type, gradient.dtype) for gradient in gradients} == {(ELSEWHERE.type, torch.float32)}


def test_a_tensor_that_was_left_on_the_cpu_is_found(data):  # noqa: F811
    denoiser = adapted(torch.float32)
    batch = draw(data, 0, 2)
    with elsewhere(denoiser), pytest.raises(RuntimeError, match="same device"):
        batch_loss(denoiser, dataclasses.replace(batch.to(ELSEWHERE), noise=batch.noise), noise_schedule(), None)


def test_what_is_measured_and_encoded_goes_to_the_device_and_comes_back():
    base, scorer = (Model(str(ROOT / "models/embedded" / name), None) for name in ("base", "clip"))
    unet, vae, text_encoder, tokenizer = make_unet(), load_vae(base), load_text_encoder(base), load_tokenizer(base)
    clip, processor = load_clip(scorer)
    latents = list(torch.randn(3, 4, 8, 8))
    with elsewhere(unet, vae, text_encoder, clip):
        results = [
            validation_losses(unet, noise_schedule(), latents, EMBEDS[:3], [10, 500], 2),
            encode_moments(vae, torch.randn(2, 3, 64, 64)),
            encode_prompts(tokenizer, text_encoder, ["an owl", "a key"]),
            embed_texts(clip, processor, ["an owl"]),
            embed_images(clip, processor, [Image.new("RGB", (64, 64))]),
        ]
    assert {result.device.type for result in results} == {"cpu"}
    assert {parameter.device.type for model in (unet, vae, text_encoder, clip) for parameter in model.parameters()} == {
        ELSEWHERE.type
    }
