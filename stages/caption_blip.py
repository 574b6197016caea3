"""Caption the preprocessed drawings with BLIP, except those that the user or their file names have captioned.

Reads images/, drawings.csv and captions_user.csv; writes captions_blip/<stem>.txt, a caption a line. Only
drawings that are new since the last run are captioned; under `accelerate launch` each process captions its share.

    python -m stages.caption_blip data/processed/flash --out data/processed/flash/captions_blip
"""

import argparse
from pathlib import Path

from tattoo_lora.data.captions import read_user_captions, write_captions
from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.data.file_names import caption_from_name
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.params import CaptionerParams, load_params, load_profile
from tattoo_lora.times import recorded_time

if __name__ == "__main__":  # a typo in params.yaml should not cost the seconds that torch takes to import
    with one_line_errors():
        load_profile(load_params().profile)

from tattoo_lora.diffusion.captioners import caption_new
from tattoo_lora.diffusion.models import process_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processed", type=Path, help="folder with images/ and drawings.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the captions")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        all_params = load_params()
        profile = load_profile(all_params.profile)
        params = all_params.caption_blip
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
        model = profile.captioner
        captioner = CaptionerParams(model.id, model.revision, None, params.max_new_tokens, params.num_beams)
        to_caption = [drawing for drawing in drawings if drawing.file not in captions]
        written, new = caption_new(
            __file__, "caption_blip", captioner, profile.inference, args.processed / "images", to_caption
        )
        if process_state().is_main_process:
            by_stem = {drawing.stem: captions.get(drawing.file) or [written[drawing.file]] for drawing in drawings}
            write_captions(args.out, by_stem)
            print(
                f"{len(drawings)} captions: {users} the user's own, {len(captions) - users} from names, "
                f"{new} by BLIP, {len(to_caption) - new} known from before"
            )


if __name__ == "__main__":
    main()
