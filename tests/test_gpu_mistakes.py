"""What goes wrong on a GPU alone, seen on a CPU: broken graphs, waits in each step, gradients clipped too early."""

import dataclasses
from collections import Counter

import pytest
import torch
from test_train import EMBEDS, PARAMS, PROFILE, data, draw, fit, make_unet  # noqa: F401 (a fixture)
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from stages.train.denoiser import Denoiser, add_adapters
from tattoo_lora.diffusion.models import measuring, measuring_dtype


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
    assert [p.data_ptr() for p in unet.parameters()] == [place for place, _ in before]
    assert all(torch.equal(p, old) for p, (_, old) in zip(unet.parameters(), before, strict=True))
