"""Draw docs/forty_prompts.png from the run in this folder: forty names by the base and, below, by the adapter `blip`.

    pip install -r requirements-dev.txt
    python docs/make_forty_prompts.py

The names are spread evenly over models/training/subjects.txt; the i-th is drawn from the noise of SEED + i, once.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "models/training")]

from captions import with_article  # noqa: E402
from choices import spread_out  # noqa: E402
from openmoji import flash_subjects  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from tqdm import tqdm  # noqa: E402

from app.generate import Settings, adapter_path, chosen_adapter, draw  # noqa: E402
from tattoo_lora.params import load_params, load_profile  # noqa: E402

COUNT, COLUMNS, SEED = 40, 10, 7
SIDE, GAP, NAME = 128, 8, 26  # px
TEXT = "#555555"


def sheet(root: Path, names: list[str]) -> Image.Image:
    """Each name in its column, by the base and below it by the adapter, COLUMNS in a row."""
    params, profile = load_params(root), load_profile("embedded", root)
    sampling, side = profile.sampling, profile.resolution
    row = 2 * SIDE + NAME + GAP
    image = Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, -(-len(names) // COLUMNS) * row - GAP), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for below, adapters in enumerate([(), (chosen_adapter(root / adapter_path("blip")),)]):
        settings = [
            Settings(
                prompt=f"{with_article(name)}, {params.preprocess.vanilla_caption}",
                negative_prompt="",
                seed=SEED + i,
                steps=sampling.sampler_steps,
                guidance_scale=sampling.guidance_scale,
                width=side,
                height=side,
                base_model=str(root / profile.base.id),
                base_revision=None,
                dtype="float32",
                adapters=adapters,
            )
            for i, name in enumerate(names)
        ]
        for i, picture in enumerate(tqdm(draw(settings, profile), total=len(names))):
            left, top = i % COLUMNS * (SIDE + GAP), i // COLUMNS * row
            image.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top + below * SIDE))
    for i, name in enumerate(names):
        middle = i % COLUMNS * (SIDE + GAP) + SIDE / 2, i // COLUMNS * row + 2 * SIDE + NAME / 2
        pen.text(middle, name if font.getlength(name) <= SIDE else name.split()[0] + " …", TEXT, font, "mm")
    return image


if __name__ == "__main__":
    names = spread_out(flash_subjects(), COUNT)
    sheet(ROOT, names).quantize(256).save(ROOT / "docs/forty_prompts.png", optimize=True)
