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
from pathlib import Path

import yaml

from bench import BASE, BLIP, CLIP

ROOT = Path(__file__).parents[1]


def run_stage(name: str, arguments: list[str], folder: Path) -> dict:
    """Seconds and peak resident memory of one stage; SystemExit with its own words where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{name}", *arguments], cwd=folder, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{name}: {(folder / f'{name}.log').read_text()[-2000:]}")
    return {"stage": name, "seconds": round(time.monotonic() - started, 1), "peak_gb": round(usage.ru_maxrss / 1e6, 2)}


def prepare(folder: Path, models: Path, resolution: int, steps: int, drawings: int) -> None:
    """params.yaml, a profile `full_size` and some sample drawings in `folder`."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["profile"] = "full_size"
    params["preprocess"] |= {"val_share": 0.15, "test_share": 0.15}
    for section in ("train", "evaluate"):
        params[section]["prompts"] = params[section]["prompts"][:1]
    params["evaluate"]["plain_prompts"] = params["evaluate"]["plain_prompts"][:1]
    params["evaluate"]["seeds"] = params["evaluate"]["seeds"][:1]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    profile = yaml.safe_load((ROOT / "profiles/sd15.yaml").read_text(encoding="utf-8"))
    for key, name in (("base", BASE), ("captioner", BLIP), ("clip", CLIP)):
        profile[key] = {"id": str(models / name), "revision": None}
    profile["resolution"] = resolution
    profile["train"] |= {"steps": steps, "warmup_steps": 0, "eval_every": steps, "gradient_accumulation_steps": 1}
    profile["inference"]["batch_size"] = 1
    profile["sampling"]["sampler_steps"] = 2
    (folder / "profiles").mkdir()
    (folder / "profiles/full_size.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    raw = folder / "data/raw/flash"
    raw.mkdir(parents=True)
    for picture in sorted((ROOT / "data/raw/flash").glob("*.png"))[:drawings]:
        shutil.copy(picture, raw)


def run_all(folder: Path) -> list[dict]:
    """Every stage that loads a model, and those before them, in the DAG's order for variant blip."""
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
        print(f"{name:<14}{rows[-1]['seconds']:>8.1f} s {rows[-1]['peak_gb']:>8.2f} GB", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder that bench.full_size_models wrote")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--drawings", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="print the table as JSON at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.models.resolve(), args.resolution, args.steps, args.drawings)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {args.resolution} px")
        rows = run_all(Path(folder))
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
