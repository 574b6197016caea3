"""Run every stage once with full-size models and print each one's time and peak memory.

    python -m bench.full_size_models SCRATCH
    python -m bench.full_size_run SCRATCH --resolution 256 --steps 3 --drawings 6

The stages are the pipeline's own, as processes of their own, in a copy of params.yaml and one profile; random
weights cost what trained ones do.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from bench import BASE, BLIP, CLIP

ROOT = Path(__file__).parents[1]


# Runs a stage as if the card had so many GB, if there is a card; its peaks go to a file.
ON_A_CARD = """
import atexit, json, os, runpy, sys
gb, peaks, module, *arguments = sys.argv[1:]

def measure(torch):
    most = {"allocated_gb": 0, "reserved_gb": 0}
    def keep():
        most["allocated_gb"] = max(most["allocated_gb"], torch.cuda.max_memory_allocated())
        most["reserved_gb"] = max(most["reserved_gb"], torch.cuda.max_memory_reserved())
    def write():
        keep()
        open(peaks, "w").write(json.dumps({name: round(peak / 1e9, 2) for name, peak in most.items()}))
    reset = torch.cuda.reset_peak_memory_stats  # a training calls it
    torch.cuda.reset_peak_memory_stats = lambda *device: (keep(), reset(*device))
    atexit.register(write)

if os.path.exists("/proc/driver/nvidia"):  # elsewhere a stage that has no use for torch does not import it
    import torch
    if torch.cuda.is_available():
        measure(torch)
        if float(gb) > 0:
            share = float(gb) * 1e9 / torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(share, 1.0))

sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run_stage(name: str, arguments: list[str], folder: Path, card_gb: float = 0) -> dict:
    """Seconds and peak memory of one stage, on a card with so much; SystemExit with its own words where it fails."""
    python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": python_path, "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", ON_A_CARD, str(card_gb), "peaks.json", f"stages.{name}", *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{name}: {(folder / f'{name}.log').read_text()[-2000:]}")
    row = {"stage": name, "seconds": round(time.monotonic() - started, 1), "peak_gb": round(usage.ru_maxrss / 1e6, 2)}
    peaks = folder / "peaks.json"
    if peaks.is_file():
        row |= json.loads(peaks.read_text())
        peaks.unlink()
    return row


def prepare(folder: Path, models: Path, args: argparse.Namespace) -> None:
    """params.yaml, a profile `full_size` and some sample drawings in `folder`."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["profile"] = "full_size"
    params["preprocess"] |= {"val_share": 0.15, "test_share": 0.15}
    for section in ("train", "evaluate"):
        params[section]["prompts"] = params[section]["prompts"][:1]
    params["train"]["compile"] = args.compile or params["train"]["compile"]
    params["evaluate"]["plain_prompts"] = params["evaluate"]["plain_prompts"][:1]
    params["evaluate"]["seeds"] = params["evaluate"]["seeds"][:1]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    profile = yaml.safe_load((ROOT / "profiles/sd15.yaml").read_text(encoding="utf-8"))
    for key, name in (("base", BASE), ("captioner", BLIP), ("clip", CLIP)):
        profile[key] |= {"id": str(models / name), "revision": None}
    profile["resolution"] = args.resolution
    profile["train"] |= {"steps": args.steps, "warmup_steps": 0, "eval_every": args.eval_every or args.steps}
    profile["train"]["gradient_accumulation_steps"] = args.accumulation
    profile["inference"]["batch_size"] = 1
    profile["sampling"]["sampler_steps"] = 2
    (folder / "profiles").mkdir()
    (folder / "profiles/full_size.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    raw = folder / "data/raw/flash"
    raw.mkdir(parents=True)
    for picture in sorted((ROOT / "data/raw/flash").glob("*.png"))[: args.drawings]:
        shutil.copy(picture, raw)


def run_all(folder: Path, cards: Sequence[float] = ()) -> list[dict]:
    """Every stage that loads a model, and those before them, in the DAG's order for variant blip.

    Then the training once more for each of the `cards`, in GB; one that does not fit says why.
    """
    processed, lora = "data/processed", "runs/lora/blip"
    shared = ["--latents", f"{processed}/latents.safetensors", "--drawings", f"{processed}/drawings.csv"]
    shared += ["--captions", f"{processed}/captions_blip"]
    outputs = ["--lora", lora, "--log-csv", "runs/logs/blip.csv", "--samples", "runs/samples/blip"]
    evaluation = [
        "--images",
        f"{processed}/images",
        "--lora",
        f"{lora}/best.safetensors",
        "--out",
        "runs/evaluation/blip",
    ]
    stages = [
        ("preprocess", ["data/raw/flash", "--out", processed, "--sheet", "plots/drawings.png"]),
        ("caption_blip", [processed, "--out", f"{processed}/captions_blip"]),
        ("enrich", [processed]),
        ("encode", [processed, "--out", f"{processed}/latents.safetensors"]),
        ("train", ["blip", *shared, *outputs]),
        ("evaluate", ["blip", *shared, *evaluation]),
    ]
    rows = []
    for name, arguments in stages:
        rows.append(run_stage(name, arguments, folder))
        show(rows[-1])
    arguments = dict(stages)["train"]
    for gb in cards:
        try:
            rows.append(run_stage("train", arguments, folder, gb) | {"card_gb": gb})
        except SystemExit as error:
            rows.append({"stage": "train", "card_gb": gb, "failed": str(error).strip().splitlines()[-1]})
        show(rows[-1])
    return rows


def show(row: dict) -> None:
    """Print a row of the table."""
    name = row["stage"] + (f", {row['card_gb']:g} GB" if "card_gb" in row else "")
    if "failed" in row:
        print(f"{name:<14} failed: {row['failed']}", flush=True)
        return
    card = (
        f" {row['allocated_gb']:>8.2f} GB allocated {row['reserved_gb']:>8.2f} reserved" if "reserved_gb" in row else ""
    )
    print(f"{name:<14}{row['seconds']:>8.1f} s {row['peak_gb']:>8.2f} GB{card}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder that bench.full_size_models wrote")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--drawings", type=int, default=6)
    parser.add_argument("--accumulation", type=int, default=1, help="of the training, with its batch of 1")
    parser.add_argument("--compile", choices=["off", "default", "graphs"], help="default: params.yaml's")
    parser.add_argument("--eval-every", type=int, help="steps; default: at the end")
    parser.add_argument("--cards", type=float, nargs="*", default=[], metavar="GB", help="train as on these cards too")
    parser.add_argument("--json", action="store_true", help="print the table as JSON at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.models.resolve(), args)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {args.resolution} px")
        rows = run_all(Path(folder), args.cards)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
