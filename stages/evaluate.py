"""Measure one adapter, or the untouched base model: val_loss, CLIP score, pictures of the fixed prompts.

Reads the latents, the manifest, a folder of captions and the adapter (none for the base); writes
<out>/metrics.json and <out>/promptXX.png.

    python -m stages.evaluate blip --latents data/processed/flash/latents.safetensors \\
        --manifest data/processed/flash/manifest.csv --captions data/processed/flash/captions_blip \\
        --lora runs/lora/blip/best.safetensors --out runs/evaluation/blip
"""

import argparse
import json
from pathlib import Path

from tattoo_lora.captions import read_captions, with_trigger
from tattoo_lora.errors import one_line_errors
from tattoo_lora.manifest import read_manifest
from tattoo_lora.params import load_params, load_profile

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)


from tattoo_lora.latents import read_latents, scaled_means
from tattoo_lora.lora import load_lora
from tattoo_lora.models import (
    assemble_pipeline,
    load_clip,
    load_noise_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    pick_device,
    pick_dtype,
    place,
)
from tattoo_lora.prompts import encode_prompts
from tattoo_lora.sampling import clip_scores, sample_images
from tattoo_lora.tokenizer import load_tokenizer
from tattoo_lora.validation import validation_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="a key under `variants` in params.yaml: whose captions and trigger")
    parser.add_argument("--latents", type=Path, required=True, help="what encode wrote")
    parser.add_argument("--manifest", type=Path, required=True, help="what preprocess wrote")
    parser.add_argument("--captions", type=Path, required=True, help="folder with one <stem>.txt a drawing")
    parser.add_argument("--lora", type=Path, help="the adapter's safetensors; without it the base model is measured")
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics.json and the pictures")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    all_params = load_params()
    params, profile = all_params.evaluate, load_profile(all_params.profile)
    held_out = [drawing for drawing in read_manifest(args.manifest) if drawing.split == "val"]
    moments = read_latents(args.latents, [drawing.file for drawing in held_out])
    by_stem = read_captions(args.captions, [drawing.stem for drawing in held_out])
    trigger = all_params.variant(args.variant).trigger
    captions = [with_trigger(trigger, by_stem[drawing.stem]) for drawing in held_out]

    device, weight_dtype = pick_device(), pick_dtype(profile.dtype)
    base = (profile.base_model, profile.base_revision)
    tokenizer, text_encoder = load_tokenizer(*base), load_text_encoder(*base).to(device)
    vae, unet, noise_scheduler = load_vae(*base), load_unet(*base, weight_dtype), load_noise_scheduler(*base)
    pipeline = assemble_pipeline(vae, text_encoder, tokenizer, unet, noise_scheduler)
    if args.lora is not None:
        load_lora(pipeline, args.lora)
    embeds = encode_prompts(tokenizer, text_encoder, ["", *captions])
    prompt_embeds = encode_prompts(tokenizer, text_encoder, params.prompts)
    pipeline.text_encoder = None  # its memory is free for the UNet
    place(pipeline, device, profile.low_memory)

    latents = scaled_means(moments, vae.config.scaling_factor)
    val_loss = validation_loss(unet, noise_scheduler, latents, embeds[1:], profile.inference_batch_size)
    images = sample_images(pipeline, prompt_embeds, embeds[:1], params.seed, profile)
    clip, processor = load_clip(profile.clip_model, profile.clip_revision)
    scores = clip_scores(clip.to(device), processor, images, params.prompts)

    args.out.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        image.save(args.out / f"prompt{i:02d}.png")
    metrics = {"val_loss": round(val_loss, 6), "clip_score": round(sum(scores) / len(scores), 4)}
    (args.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"{args.out.name}: val_loss {metrics['val_loss']:.4f}, clip_score {metrics['clip_score']:.2f}")


if __name__ == "__main__":
    main()
