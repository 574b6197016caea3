"""Write models/embedded/ from what was trained: the same folders as on the hub, weights in float16.

python models/training/ship.py
"""

import json
import shutil
from pathlib import Path

import torch
from corpus import ROOT, WORK
from diffusers import StableDiffusionPipeline
from transformers import BlipForConditionalGeneration, BlipProcessor, CLIPModel, CLIPProcessor

EMBEDDED = ROOT / "models/embedded"
LIMIT_MB = 48


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def forget_origin(config: Path) -> None:
    """Drop the folder on this machine that the weights came from; diffusers writes it into each config."""
    values = json.loads(config.read_text(encoding="utf-8"))
    if values.pop("_name_or_path", None):
        config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    for name in ("base", "blip", "clip"):
        shutil.rmtree(EMBEDDED / name, ignore_errors=True)
    StableDiffusionPipeline.from_pretrained(WORK / "base", torch_dtype=torch.float16).save_pretrained(EMBEDDED / "base")
    for name, model, processor in (
        ("blip", BlipForConditionalGeneration, BlipProcessor),
        ("clip", CLIPModel, CLIPProcessor),
    ):
        model.from_pretrained(WORK / name, dtype=torch.float16).save_pretrained(EMBEDDED / name)
        processor.from_pretrained(WORK / name).save_pretrained(EMBEDDED / name)
    for config in EMBEDDED.rglob("*.json"):
        forget_origin(config)
    for folder in sorted(EMBEDDED.iterdir()):
        if folder.is_dir():
            print(f"{folder.name}: {megabytes(folder):.1f} MB")
    if megabytes(EMBEDDED) > LIMIT_MB:
        raise SystemExit(f"{megabytes(EMBEDDED):.1f} MB in all, more than {LIMIT_MB}")


if __name__ == "__main__":
    main()
