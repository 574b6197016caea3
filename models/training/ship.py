"""Write what the pipeline reads, weights in float16, in the same folders as on the hub.

    python ship.py

Reads work/base, work/blip and work/clip, writes work/embedded. Its folders become those of models/embedded by hand.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from recipe import WORK
from transformers import BlipForConditionalGeneration, BlipProcessor, CLIPModel, CLIPProcessor

LIMIT_MB = 48


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def forget_origin(config: Path) -> None:
    """Drop the folder on this machine that the weights came from; diffusers writes it into each config."""
    values = json.loads(config.read_text(encoding="utf-8"))
    if values.pop("_name_or_path", None):
        config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def ship(work: Path, embedded: Path) -> None:
    """Write base, blip and clip of `work` into `embedded`; SystemExit where they are larger than Git should hold."""
    shutil.rmtree(embedded, ignore_errors=True)
    StableDiffusionPipeline.from_pretrained(work / "base", torch_dtype=torch.float16).save_pretrained(embedded / "base")
    for name, model, processor in (
        ("blip", BlipForConditionalGeneration, BlipProcessor),
        ("clip", CLIPModel, CLIPProcessor),
    ):
        model.from_pretrained(work / name, dtype=torch.float16).save_pretrained(embedded / name)
        processor.from_pretrained(work / name).save_pretrained(embedded / name)
    for config in embedded.rglob("*.json"):
        forget_origin(config)
    for folder in sorted(embedded.iterdir()):
        print(f"{folder.name}: {megabytes(folder):.1f} MB")
    if megabytes(embedded) > LIMIT_MB:
        raise SystemExit(f"{embedded}: {megabytes(embedded):.1f} MB in all, more than {LIMIT_MB}; make a model smaller")


if __name__ == "__main__":
    ship(WORK, WORK / "embedded")
