"""Caption every preprocessed drawing with BLIP.

Reads images/ and the manifest; writes captions_blip/<stem>.txt, one line each. Under `accelerate launch`
each process captions its share.

    python -m stages.caption_blip data/processed/flash --out data/processed/flash/captions_blip
"""

import argparse
from pathlib import Path

from tattoo_lora.captions import write_caption
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.manifest import read_manifest
from tattoo_lora.params import CaptionBlipParams, load_params, load_profile

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import torch
from PIL import Image
from tqdm import tqdm
from transformers import BlipForConditionalGeneration, BlipProcessor

from tattoo_lora.images import decoded_batches
from tattoo_lora.models import load_captioner, pick_device, pick_dtype, process_state


@torch.inference_mode()
def caption_images(
    model: BlipForConditionalGeneration,
    processor: BlipProcessor,
    images: list[Image.Image],
    params: CaptionBlipParams,
) -> list[str]:
    """One caption an image; greedy where num_beams is 1."""
    pixel_values = processor(images=images, return_tensors="pt").pixel_values.to(model.device, model.dtype)
    tokens = model.generate(
        pixel_values=pixel_values,
        num_beams=params.num_beams,
        max_new_tokens=params.max_new_tokens,
        do_sample=False,
    )
    return [caption.strip() for caption in processor.batch_decode(tokens, skip_special_tokens=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processed", type=Path, help="folder with images/ and manifest.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the captions")
    args = parser.parse_args()
    with one_line_errors():
        all_params = load_params()
        params, profile = all_params.caption_blip, load_profile(all_params.profile)
        drawings = read_manifest(args.processed / "manifest.csv")
        model, processor = load_captioner(profile.caption_model, profile.caption_revision)
        model.to(pick_device(), pick_dtype(profile.dtype))
        args.out.mkdir(parents=True, exist_ok=True)
        state = process_state()
        with state.split_between_processes(drawings) as share:
            progress = tqdm(total=len(share), unit="drawing", desc="caption_blip", disable=not state.is_main_process)
            for batch, images in decoded_batches(args.processed / "images", share, profile.inference_batch_size):
                for drawing, caption in zip(batch, caption_images(model, processor, images, params), strict=True):
                    if not caption:
                        raise UserError(f"{drawing.file}: empty caption; raise caption_blip.max_new_tokens")
                    write_caption(args.out, drawing.stem, caption)
                progress.update(len(batch))
            progress.close()


if __name__ == "__main__":
    main()
