"""Caption the preprocessed drawings with BLIP, except those that the user or their file names have captioned.

Reads images/, drawings.csv and captions_user.csv; writes captions_blip/<stem>.txt, a caption a line. Only
drawings that are new since the last run are captioned; under `accelerate launch` each process captions its share.

    python -m stages.caption_blip data/processed/flash --out data/processed/flash/captions_blip
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from tattoo_lora.data.captions import read_user_captions, write_caption
from tattoo_lora.data.drawings import Drawing, read_drawings
from tattoo_lora.data.file_names import caption_from_name
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.keys import model_key
from tattoo_lora.params import CaptionBlipParams, load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

from tattoo_lora.diffusion.images import squared
from tattoo_lora.diffusion.models import load_captioner, pick_device, pick_dtype, process_state, use_threads
from tattoo_lora.diffusion.only_new import Compute, compute_new


@torch.inference_mode()
def caption_images(
    model: BlipForConditionalGeneration,
    processor: BlipProcessor,
    images: list[Image.Image],
    params: CaptionBlipParams,
) -> list[str]:
    """One caption for each image; greedy decoding if num_beams is 1."""
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
    parser.add_argument("processed", type=Path, help="folder with images/ and drawings.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the captions")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        all_params = load_params()
        profile = load_profile(all_params.profile)
        params, inference = all_params.caption_blip, profile.inference
        drawings = read_drawings(args.processed / "drawings.csv")
        captions = read_user_captions(args.processed / "captions_user.csv")
        users = len(captions)
        if params.captions_from != "blip":
            named = {drawing.file: caption_from_name(drawing.stem) for drawing in drawings}
            captions = {file: [caption] for file, caption in named.items() if caption} | captions
            nameless = [drawing.file for drawing in drawings if drawing.file not in captions]
            if nameless and params.captions_from == "names":
                raise UserError(
                    f"{nameless[0]}: its name does not say what is drawn ({len(nameless)} in all); rename it, put a "
                    ".txt beside it, or set captions_from: names-then-blip"
                )
        use_threads(inference.threads)
        batch_size, device, dtype = inference.batch_size, pick_device(), pick_dtype(inference.dtype)
        captioner = model_key(profile.captioner)
        depends_on = (captioner, params.max_new_tokens, params.num_beams, batch_size, device.type, dtype)

        def load() -> Compute:
            model, processor = load_captioner(profile.captioner)
            model.to(device, dtype)

            def compute(batch: Sequence[Drawing], images: list[Image.Image]) -> Iterator[bytes]:
                squares = [squared(image) for image in images]
                for drawing, caption in zip(batch, caption_images(model, processor, squares, params), strict=False):
                    if not caption:
                        raise UserError(f"{drawing.file}: empty caption; raise caption_blip.max_new_tokens")
                    yield caption.encode()

            return compute

        to_caption = [drawing for drawing in drawings if drawing.file not in captions]
        kept, new = compute_new(__file__, depends_on, args.processed / "images", to_caption, batch_size, load)
        if process_state().is_main_process:
            args.out.mkdir(parents=True, exist_ok=True)
            for drawing in drawings:
                lines = captions.get(drawing.file) or [kept[drawing.file].read_text(encoding="utf-8")]
                write_caption(args.out, drawing.stem, *lines)
            print(
                f"{len(drawings)} captions: {users} the user's own, {len(captions) - users} from names, "
                f"{new} by BLIP, {len(to_caption) - new} known from before"
            )


if __name__ == "__main__":
    main()
