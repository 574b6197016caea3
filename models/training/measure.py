"""Measure the embedded models: how well they do what they are for.

    python measure.py                                        what the recipe would ship, work/embedded
    python measure.py --models ../embedded --lora ../../runs/lora/*/best.safetensors

Writes measures.json, and the pictures that were measured to work/measured. No model has learned the line art that is
measured here: the held-out drawings' in OpenMoji's hand, and that of the unseen hands. With --lora it only prints as
what the scorer takes the adapters' pictures.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from captions import COLOR_CAPTION, LINE_CAPTION, STYLES, fill
from choices import spread_out
from corpus import Corpus, load_corpus, to_uint8
from diffusers import AutoencoderKL, StableDiffusionPipeline
from pictures import line_art_tests
from PIL import Image
from recipe import HERE, WORK, load_params
from torch import Tensor
from train_base import sample
from train_blip import named
from train_clip import top1
from train_vae import held_out_pictures, psnr, reconstruct, unseen_pictures
from transformers import AutoTokenizer, BlipForConditionalGeneration, CLIPModel

COLUMNS, CELL = 10, 160


def pixel_values(pictures: list[Image.Image]) -> Tensor:
    """(B, 3, H, W) in [-1, 1] of RGB pictures."""
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]).float() / 127.5 - 1


def contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """The pictures in rows of COLUMNS, each CELL px wide."""
    sheet = Image.new("RGB", (COLUMNS * CELL, -(-len(pictures) // COLUMNS) * CELL), "white")
    for i, picture in enumerate(pictures):
        place = (i % COLUMNS * CELL, i // COLUMNS * CELL)
        sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), place)
    return sheet


def measure_vae(vae: AutoencoderKL, corpus: Corpus, out: Path) -> dict[str, float]:
    """PSNR in dB; in `out` some drawings and, a row below each, what the VAE makes of them."""
    size = vae.config.sample_size
    kinds = {
        "held_out_color": held_out_pictures(corpus, "color", size),
        "held_out_line": held_out_pictures(corpus, "line", size),
        "unseen_hands": unseen_pictures(size),
    }
    rows = []
    for pictures in kinds.values():
        some = pictures[spread_out(list(range(len(pictures))), COLUMNS)]
        for shown in (some, reconstruct(vae, some)):
            rows += [Image.fromarray(picture.numpy()) for picture in to_uint8(shown)]
    contact_sheet(rows).save(out / "reconstructions.png")
    return {f"psnr_{kind}": psnr(vae, pictures) for kind, pictures in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=WORK / "embedded", help="folder with base, blip and clip")
    parser.add_argument("--lora", type=Path, nargs="*", default=[], help="adapters to measure instead")
    args = parser.parse_args()

    params = load_params("measure")
    out = WORK / "measured"
    out.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus()
    # Evenly over the subjects, which are listed by kind.
    names = spread_out(corpus.subjects, params["names"])
    pipeline = StableDiffusionPipeline.from_pretrained(args.models / "base", torch_dtype=torch.float32)
    clip = CLIPModel.from_pretrained(args.models / "clip", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.models / "clip")

    def share_found(template: str, caption: str, picture: str) -> float:
        """How often the scorer finds the name of what was drawn for it."""
        prompts = [fill(template, name) for name in names]
        pictures = sample(pipeline, prompts, params["seed"], params["guidance_scale"])
        contact_sheet(pictures).save(out / f"{picture}.png")
        small = torch.nn.functional.interpolate(
            pixel_values(pictures), size=clip.config.vision_config.image_size, mode="bicubic", antialias=True
        )
        return top1(clip, tokenizer, small.clamp(-1, 1), names, corpus.subjects, caption)

    if args.lora:
        for lora in args.lora:
            pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
            found = share_found("{a}, " + STYLES[0], LINE_CAPTION, f"lora_{lora.parent.name}")
            print(f"{lora.parent.name}: {found:.1%} of {len(names)} names found")
            pipeline.unload_lora_weights()
        return

    measures = measure_vae(pipeline.vae, corpus, out)
    captioner = BlipForConditionalGeneration.from_pretrained(args.models / "blip", dtype=torch.float32)
    blip_tokenizer = AutoTokenizer.from_pretrained(args.models / "blip")
    for hand, (pictures, of_hand) in line_art_tests(corpus, clip.config.vision_config.image_size).items():
        measures[f"clip_{hand}"] = top1(clip, tokenizer, pictures, of_hand, corpus.subjects, LINE_CAPTION)
        measures[f"blip_{hand}"] = named(captioner, blip_tokenizer, pictures, of_hand)
    measures["base_found"] = share_found("{a}", COLOR_CAPTION, "base")
    text = json.dumps({key: round(value, 3) for key, value in measures.items()}, indent=2)
    print(text)
    if args.models == WORK / "embedded":
        (HERE / "measures.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
