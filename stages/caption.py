"""Caption the preprocessed drawings with a variant's own captioner, except those that the user has captioned.

Reads images/, drawings.csv and captions_user.csv; writes captions_<variant>/<stem>.txt, a caption a line. Only
drawings that are new since the last run are captioned; under `accelerate launch` each process captions its share.

    python -m stages.caption florence data/processed/flash --out data/processed/flash/captions_florence
"""

import argparse
from pathlib import Path

from tattoo_lora.data.captions import read_user_captions, write_captions
from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.errors import one_line_errors
from tattoo_lora.params import load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

from tattoo_lora.diffusion.captioners import caption_new
from tattoo_lora.diffusion.models import process_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", help="a key under `captioners` in params.yaml")
    parser.add_argument("processed", type=Path, help="folder with images/ and drawings.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the captions")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        all_params = load_params()
        profile = load_profile(all_params.profile)
        captioner = all_params.own_captioner(args.variant)
        drawings = read_drawings(args.processed / "drawings.csv")
        captions = read_user_captions(args.processed / "captions_user.csv")
        to_caption = [drawing for drawing in drawings if drawing.file not in captions]
        section, images = f"captioners.{args.variant}", args.processed / "images"
        written, new = caption_new(__file__, section, captioner, profile.inference, images, to_caption)
        if process_state().is_main_process:
            by_stem = {drawing.stem: captions.get(drawing.file) or [written[drawing.file]] for drawing in drawings}
            write_captions(args.out, by_stem)
            print(
                f"{len(drawings)} captions: {len(captions)} the user's own, {new} by {captioner.id}, "
                f"{len(to_caption) - new} known from before"
            )


if __name__ == "__main__":
    main()
