"""Speed of each part against a plain loop, in one run on one machine.

    python -m bench train                               the miniature, batch 16
    python -m bench train --profile sd15 --batch 1 --accumulation 8
    python -m bench train --base SCRATCH/stable-diffusion-v1-5 --resolution 256 --batch 1 --steps 2 --repeats 3
    python -m bench train --peer ~/diffusers/examples/text_to_image/train_text_to_image_lora.py
    python -m bench sample|encode|caption --count 8
    python -m bench preprocess|repro

Each case runs in turn, round after round; the table gives the median, the least and the most of the rounds.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from bench.timing import interleaved, report
from tattoo_lora.errors import one_line_errors
from tattoo_lora.params import Model, load_params, load_profile


def bench_train(args: argparse.Namespace) -> None:
    from bench import train  # heavy imports where they are used
    from bench.peer import peer_steps, read_targets

    params, profile = load_params().train, load_profile(args.profile)
    params = dataclasses.replace(params, compile=args.compile or params.compile, micro_batch_size=args.micro)
    base = profile.base if args.base is None else Model(args.base, None)
    models = train.load(base, args.dtype or profile.inference.dtype)
    profile = dataclasses.replace(
        profile,
        resolution=args.resolution or profile.resolution,
        train=dataclasses.replace(
            profile.train,
            batch_size=args.batch or profile.train.batch_size,
            gradient_accumulation_steps=args.accumulation,
            target_modules=read_targets(args.peer) if args.peer else profile.train.target_modules,
        ),
    )
    checkpointed = dataclasses.replace(params, gradient_checkpointing=True)
    cases = {
        "ours": lambda: train.ours(models, params, profile, args.steps, args.drawings),
        "reference": lambda: train.plain(models, params, profile, args.steps),
        "UNet and AdamW alone": lambda: train.least(models, params, profile, args.steps * args.accumulation),
    }
    if args.checkpointing:
        cases["ours, checkpointing"] = lambda: train.ours(models, checkpointed, profile, args.steps, args.drawings)
    if args.more_drawings:
        cases[f"ours, {args.more_drawings} drawings"] = lambda: train.ours(
            models, params, profile, args.steps, args.more_drawings
        )
    if args.peer:
        dtype = train.MIXED_PRECISION[models.unet.dtype]
        cases[args.peer.name] = lambda: peer_steps(args.peer, base, profile, params.rank, dtype, args.steps)
    title = f"train, {profile.resolution} px, batch {profile.train.batch_size} x {args.accumulation}"
    title += f", adapters on {', '.join(profile.train.target_modules)}"
    report(title, "pictures", "reference", interleaved(cases, args.repeats), args.json)


def bench_inference(args: argparse.Namespace) -> None:
    from bench import inference

    params, profile = load_params(), load_profile(args.profile)
    cases = getattr(inference, args.part)(profile, params, args.count)
    title = f"{args.part}, {profile.resolution} px, {args.count} pictures"
    report(title, "pictures", "reference", interleaved(cases, args.repeats), args.json)


def bench_preprocess(args: argparse.Namespace) -> None:
    from bench.pipeline import preprocess_cases

    params, profile = load_params(), load_profile(args.profile)
    with tempfile.TemporaryDirectory() as folder:
        measured = interleaved(preprocess_cases(profile, params, Path(folder)), args.repeats)
    report(f"preprocess, {profile.resolution} px", "drawings", "reference", measured, args.json)


def bench_many(args: argparse.Namespace) -> None:
    from bench.pipeline import preprocess_many

    for drawings in args.drawings:
        with tempfile.TemporaryDirectory() as folder:
            figures = preprocess_many(drawings, Path(folder))
        print(f"{drawings} drawings: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))


def bench_repro(args: argparse.Namespace) -> None:
    from bench.pipeline import repro_cases, small_project

    with small_project(args.steps) as project:
        measured = interleaved(repro_cases(project), args.repeats)
    report(f"repro, {args.steps} training steps a variant", "runs", "reference", measured, args.json)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    train = parts.add_parser("train", help="the training loop against the example script's and the bare UNet")
    train.add_argument("--base", help="a base model in place of the profile's")
    train.add_argument("--resolution", type=int, help="px; default: the profile's")
    train.add_argument("--batch", type=int, help="default: the profile's")
    train.add_argument("--accumulation", type=int, default=1)
    train.add_argument("--compile", choices=["off", "default", "graphs"], help="default: params.yaml's")
    train.add_argument("--micro", type=int, help="samples at once; default: what fits")
    train.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: the profile's")
    train.add_argument("--steps", type=int, default=10, help="counted steps a run")
    train.add_argument("--drawings", type=int, default=1000)
    train.add_argument("--more-drawings", type=int, help="one more case, with so many drawings")
    train.add_argument("--checkpointing", action="store_true", help="one more case, with gradient checkpointing")
    train.add_argument("--peer", type=Path, help="one more case: your copy of diffusers' train_text_to_image_lora.py")
    train.set_defaults(run=bench_train)
    for name in ("sample", "encode", "caption"):
        part = parts.add_parser(name, help="in batches against one at a time")
        part.add_argument("--count", type=int, default=32, help="pictures a run")
        part.set_defaults(run=bench_inference)
    parts.add_parser("preprocess", help="the stage against Pillow alone").set_defaults(run=bench_preprocess)
    many = parts.add_parser("many", help="preprocess on few drawings and on many: seconds and memory")
    many.add_argument("--drawings", type=int, nargs="+", default=[200, 20_000])
    many.set_defaults(run=bench_many)
    repro = parts.add_parser("repro", help="dvc repro against the same commands without DVC")
    repro.add_argument("--steps", type=int, default=4)
    repro.set_defaults(run=bench_repro)
    for part in parts.choices.values():
        part.add_argument("--profile", default="embedded", help="a file under profiles/")
        part.add_argument("--repeats", type=int, default=5, help="counted rounds")
        part.add_argument("--json", type=Path, help="write the table there too")
    args = parser.parse_args()
    with one_line_errors():
        args.run(args)


if __name__ == "__main__":
    main()
