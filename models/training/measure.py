"""Print the figures of the model card: how well the embedded models do what they are for.

    python models/training/measure.py                      the shipped models
    python models/training/measure.py --lora runs/lora/*/best.safetensors

After corpus.py. The held-out drawings are the pipeline's: no model saw their line art. With --lora, what
the adapters draw is measured too. Writes the pictures that it made to work/measured_<name>.png; with --grid, forty
of them, the base's above the first adapter's, labelled.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from captions import COLOR_CAPTION, LINE_CAPTION, STYLES, fill
from corpus import ROOT, WORK, load_corpus
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from train_base import contact_sheet
from train_blip import named
from train_clip import CANDIDATES, top1
from train_vae import psnr

from tattoo_lora.lora import load_lora
from tattoo_lora.models import (
    load_captioner,
    load_clip,
    load_vae,
)
from tattoo_lora.params import load_profile
from tattoo_lora.prompts import encode_prompts
from tattoo_lora.sampling import load_pipeline, sample_images

NAMES = 100
GRID, CELL, COLUMNS = 40, 96, 10
SEED = 1000  # apart from the pipeline's own seeds


def to_tensor(images: list[Image.Image]) -> Tensor:
    """(B, H, W, 3) uint8."""
    return torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(*i.size, 3) for i in images])


def report(what: str, value: float, floor: float, aim: float, unit: str) -> None:
    verdict = "reaches the aim" if value >= aim else "above the floor" if value >= floor else "BELOW THE FLOOR"
    print(f"{what:<62}{value:6.1f} {unit}   floor {floor:g}, aim {aim:g}: {verdict}", flush=True)


def labelled_grid(names: list[str], above: list[Image.Image], below: list[Image.Image]) -> Image.Image:
    """GRID of the pairs, evenly chosen, each with its name under it."""
    chosen = [i * len(names) // GRID for i in range(GRID)]
    height = 2 * CELL + 22
    grid = Image.new("RGB", (COLUMNS * CELL, -(-GRID // COLUMNS) * height), "white")
    writing = ImageDraw.Draw(grid)
    for position, i in enumerate(chosen):
        x, y = position % COLUMNS * CELL, position // COLUMNS * height
        for picture, offset in ((above[i], 0), (below[i], CELL)):
            grid.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y + offset))
        font = ImageFont.load_default(size=11)
        label = names[i] if writing.textlength(names[i], font) < CELL else names[i].split()[0] + " …"
        writing.text((x + CELL / 2, y + 2 * CELL + 3), label, "#444444", font, anchor="ma")
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "models/embedded", help="folder with base, blip and clip")
    parser.add_argument("--lora", type=Path, nargs="*", default=[], help="adapters to measure as well")
    parser.add_argument("--grid", type=Path, help="PNG to write: forty prompts, base above, first adapter below")
    args = parser.parse_args()

    corpus = load_corpus()
    profile = load_profile("embedded", ROOT)
    color, line = corpus.color[corpus.held_out, 0], corpus.line[corpus.held_out, 0]
    held_out_names = [corpus.names[i] for i in corpus.held_out.nonzero()[:, 0]]
    subjects = [corpus.names[i] for i in corpus.subject.nonzero()[:, 0]]
    # Every third subject or so: the list is ordered by kind, so each kind has its share.
    drawn = [subjects[i * len(subjects) // NAMES] for i in range(NAMES)]

    base = (str(args.models / "base"), None)
    vae = load_vae(*base)
    report("VAE: PSNR, held-out drawings in colour and as line art", psnr(vae, torch.cat([color, line])), 24, 28, "dB")
    print(f"    colour {psnr(vae, color):.2f} dB, line art {psnr(vae, line):.2f} dB")

    clip, processor = load_clip(str(args.models / "clip"), None)
    rate = top1(clip, processor.tokenizer, line, held_out_names, subjects, LINE_CAPTION)
    report(f"CLIP: held-out line drawing's caption first among {CANDIDATES}", 100 * rate, 60, 85, "%")

    captioner, blip_processor = load_captioner(str(args.models / "blip"), None)
    rate = named(captioner, blip_processor.tokenizer, line, held_out_names)
    report("BLIP: caption names the held-out line drawing", 100 * rate, 60, 85, "%")

    pipeline = load_pipeline(replace(profile, base_model=base[0], base_revision=base[1], dtype="float32"))
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    empty = encode_prompts(tokenizer, text_encoder, [""])

    def draw(template: str, name: str) -> list[Image.Image]:
        prompts = encode_prompts(tokenizer, text_encoder, [fill(template, subject) for subject in drawn])
        images = sample_images(
            pipeline, prompts, empty, [SEED + i for i in range(len(drawn))], profile.sampler_steps, profile
        )
        contact_sheet(images, columns=20).save(WORK / f"measured_{name}.png")
        return images

    of_base = draw("{a}", "base")
    rate = top1(clip, processor.tokenizer, to_tensor(of_base), drawn, subjects, COLOR_CAPTION)
    report(f"base: scorer finds the name of {NAMES} pictures among {CANDIDATES}", 100 * rate, 60, 90, "%")
    for number, lora in enumerate(args.lora):
        load_lora(pipeline, lora)
        name = lora.parent.name
        images = draw("{a}, " + STYLES[0], name)
        rate = top1(clip, processor.tokenizer, to_tensor(images), drawn, subjects, LINE_CAPTION)
        report(f"LoRA {name}: the same, in line art", 100 * rate, 50, 85, "%")
        pipeline.unload_lora_weights()
        if args.grid and number == 0:
            labelled_grid(drawn, of_base, images).save(args.grid)


if __name__ == "__main__":
    main()
