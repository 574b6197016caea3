"""Parts of bench.gpu that no other bench has, each printing Markdown: trainings held against each other, a profile.

python -m bench.gpu_parts losses --knobs use_dora=true      eager against compiled, with these train params
python -m bench.gpu_parts resume|deterministic|val_loss|profile|wheels [--base SCRATCH/… --resolution 512]
"""

import argparse
import copy
import csv
import dataclasses
import hashlib
import io
import os
import re
import tempfile
import time
from importlib import metadata
from pathlib import Path

import yaml

from tattoo_lora.errors import one_line_errors
from tattoo_lora.params import Model, Profile, TrainParams, load_params, load_profile

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA's first use, for `deterministic`
ROOT = Path(__file__).parents[1]
OPTIONAL = ("triton", "bitsandbytes", "prodigyopt", "torchvision", "xformers", "datasets")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training's losses by step, the hash of its adapter's weights, seconds with compiling, peak GB on a card."""

    losses: list[float]
    sha256: str
    seconds: float
    peak_gb: float | None


def trained(
    models, params: TrainParams, profile: Profile, steps: int, folder: Path, stop: int | None = None
) -> Trained:
    """Train on random numbers; with `stop`, the training is interrupted after that step, for a resume."""
    import torch
    from accelerate import Accelerator

    from bench.train import adapted_once, latent_shape
    from stages.train.batches import Batches, TrainingSet
    from stages.train.checkpoint import Checkpoints
    from stages.train.denoiser import Denoiser
    from stages.train.loop import train
    from stages.train.run import Log, Outputs

    params = dataclasses.replace(params, early_stop_evals=None, save_every=None)
    generator = torch.Generator().manual_seed(0)
    channels, *side = latent_shape(models, profile.resolution)
    config = models.text_encoder.config
    texts, length = 8, config.max_position_embeddings
    moments = list(torch.randn(texts, 2, 2 * channels, *side, generator=generator))
    embeds = torch.randn(texts, length, config.hidden_size, generator=generator)
    input_ids = torch.randint(config.vocab_size, (texts, length), generator=generator)
    text_encoder = None if params.text_encoder_lr is None else copy.deepcopy(models.text_encoder)
    denoiser = Denoiser(models.unet, embeds if text_encoder is None else None, text_encoder, input_ids)
    denoiser.to(models.unet.device)
    train_profile = dataclasses.replace(profile.train, steps=steps, eval_every=1, warmup_steps=0)  # a row a step
    effective = train_profile.batch_size * train_profile.gradient_accumulation_steps
    data = TrainingSet(moments, torch.arange(texts)[:, None], models.vae.config.scaling_factor)
    batches = Batches(data, params, 0.1, effective, models.noise_scheduler.config.num_train_timesteps)
    log, cuda = io.StringIO(), torch.cuda.is_available()
    learned = []

    def measure(step: int) -> tuple[float, float]:
        if step == stop:
            raise KeyboardInterrupt
        return 0.0, 0.0

    def keep(name: str, *_: object) -> None:
        if name == "final":
            learned.extend(p.detach().cpu().numpy().tobytes() for p in denoiser.parameters() if p.requires_grad)

    outputs = Outputs(measure, keep, Log(log), Checkpoints(str(folder / "snapshots"), []))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with adapted_once(models.unet):
        try:
            accelerator = Accelerator(cpu=not cuda, mixed_precision="no")
            train(denoiser, models.noise_scheduler, batches, params, train_profile, accelerator, outputs)
        except KeyboardInterrupt:
            if stop is None:
                raise
    rows = csv.DictReader(io.StringIO(log.getvalue()))
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"]]
    peak_gb = torch.cuda.max_memory_allocated() / 1e9 if cuda else None
    return Trained(losses, hashlib.sha256(b"".join(learned)).hexdigest(), time.perf_counter() - started, peak_gb)


def modes() -> tuple[str, ...]:
    """The ways to compile that are compared on this machine."""
    import torch

    return ("off", "graphs") if torch.cuda.is_available() else ("off",)


def largest_difference(one: list[float], other: list[float]) -> str:
    """The largest relative difference of two trainings' losses by step."""
    return f"{max(abs(a / b - 1) for a, b in zip(one, other, strict=True)):.1e}"


def losses(models, params: TrainParams, profile: Profile, steps: int, folder: Path) -> list[str]:
    """Eager against CUDA graphs, where there is a card."""
    lines = ["| compile | last loss | largest difference from eager | s | GB |", "|---|---:|---:|---:|---:|"]
    eager = None
    for mode in modes():
        result = trained(models, dataclasses.replace(params, compile=mode), profile, steps, folder / mode)
        eager = eager or result
        peak = "" if result.peak_gb is None else f"{result.peak_gb:.2f}"
        difference = largest_difference(result.losses, eager.losses)
        lines.append(f"| {mode} | {result.losses[-1]:.4f} | {difference} | {result.seconds:.1f} | {peak} |")
    return lines


def resume(models, params: TrainParams, profile: Profile, steps: int, folder: Path) -> list[str]:
    """A training that is stopped half-way and goes on, against one that is not."""
    params = dataclasses.replace(params, checkpoint_every=1)  # a snapshot a step
    whole = trained(models, params, profile, steps, folder / "whole")
    trained(models, params, profile, steps, folder / "parts", stop=steps // 2 + 1)
    rest = trained(models, params, profile, steps, folder / "parts")
    difference = largest_difference(rest.losses, whole.losses[-len(rest.losses) :])
    same = "the same" if rest.sha256 == whole.sha256 else "other"
    return [f"resumed for {len(rest.losses)} of {steps} steps: {same} bytes, losses differ by at most {difference}"]


def deterministic(models, params: TrainParams, profile: Profile, steps: int, folder: Path) -> list[str]:
    """Two runs without `deterministic` and two with it, compared by the bytes of their adapters."""
    from stages.train.__main__ import be_deterministic

    lines = []
    for is_asked in (False, True):
        if is_asked:
            be_deterministic()
        one, other = (trained(models, params, profile, steps, folder / f"{is_asked}{i}") for i in range(2))
        same = "the same" if one.sha256 == other.sha256 else "other"
        difference = largest_difference(one.losses, other.losses)
        lines.append(
            f"deterministic: {is_asked}: {same} bytes, losses differ by at most {difference}, {one.seconds:.1f} s"
        )
    return lines


def val_loss(base: Model, profile: Profile) -> list[str]:
    """The same losses in three dtypes."""
    import torch

    from bench import train
    from tattoo_lora.diffusion.validation import timestep_grid, validation_losses

    lines, reference = ["| dtype | val_loss | from float32 |", "|---|---:|---:|"], None
    for dtype in ("float32", "float16", "bfloat16"):
        models, generator = train.load(base, dtype), torch.Generator().manual_seed(0)
        config = models.text_encoder.config
        latents = list(torch.randn(8, *train.latent_shape(models, profile.resolution), generator=generator))
        embeds = torch.randn(8, config.max_position_embeddings, config.hidden_size, generator=generator)
        timesteps = timestep_grid(4, models.noise_scheduler.config.num_train_timesteps)
        mean = validation_losses(models.unet, models.noise_scheduler, latents, embeds, timesteps, 4).mean().item()
        reference = reference or mean
        lines.append(f"| {dtype} | {mean:.5f} | {mean / reference - 1:+.2%} |")
    return lines


def profile_steps(models, params: TrainParams, profile: Profile, folder: Path) -> list[str]:
    """What the time of three steps goes to, eager and as CUDA graphs."""
    from torch.profiler import profile as profiler

    lines = []
    for mode in modes():
        with profiler() as recorded:
            trained(models, dataclasses.replace(params, compile=mode), profile, 3, folder / mode)
        averages = recorded.key_averages()
        on_card = any(average.self_device_time_total for average in averages)
        table = averages.table(sort_by=f"self_{'device' if on_card else 'cpu'}_time_total", row_limit=12)
        lines += [f"compile: {mode}", "```", table, "```"]
    return lines


def wheels() -> list[str]:
    """The packages of requirements*.txt and the optional ones that this machine lacks."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("requirements*.txt")))
    names = [*re.findall(r"(?m)^([A-Za-z0-9][A-Za-z0-9_.-]*)", text), *OPTIONAL]
    missing = []
    for name in dict.fromkeys(names):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    return [f"missing: {', '.join(missing) or 'none'}"]


def with_knobs(knobs: list[str]) -> TrainParams:
    """params.yaml's train with `key=value` changed, read as load_params reads it; UserError as load_params."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["train"] |= {key: yaml.safe_load(value) for key, _, value in (knob.partition("=") for knob in knobs)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        return load_params(Path(folder)).train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["losses", "resume", "deterministic", "val_loss", "profile", "wheels"])
    parser.add_argument("--knobs", nargs="*", default=[], metavar="KEY=VALUE", help="train params")
    parser.add_argument("--profile", default="embedded", help="a file under profiles/")
    parser.add_argument("--base", help="a base model in place of the profile's")
    parser.add_argument("--resolution", type=int, help="px; default: the profile's")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        params, profile = with_knobs(args.knobs), load_profile(args.profile)
        profile = dataclasses.replace(profile, resolution=args.resolution or profile.resolution)
        base = profile.base if args.base is None else Model(args.base, None)
        print("\n".join(lines_of_part(args.part, base, params, profile, args.steps, Path(folder))))


def lines_of_part(part: str, base: Model, params: TrainParams, profile: Profile, steps: int, folder: Path) -> list[str]:
    """What the part has to say, in lines of Markdown."""
    if part == "wheels":
        return wheels()
    if part == "val_loss":
        return val_loss(base, profile)
    from bench import train

    models = train.load(base, profile.inference.dtype)
    if part == "profile":
        return profile_steps(models, params, profile, folder)
    return {"losses": losses, "resume": resume, "deterministic": deterministic}[part](
        models, params, profile, steps, folder
    )


if __name__ == "__main__":
    main()
