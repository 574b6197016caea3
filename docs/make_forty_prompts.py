"""Draw docs/forty_prompts.png from the run in this folder: forty names by the base and, below, by the adapter `blip`.

    python docs/make_forty_prompts.py

The names are spread evenly over models/training/subjects.txt; the i-th is drawn from the noise of SEED + i, once.
"""

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from tqdm import tqdm  # noqa: E402

from app.generate import Settings, Studio, adapter_path, chosen_adapter  # noqa: E402
from tattoo_lora.params import load_params, load_profile  # noqa: E402

COUNT, COLUMNS, SEED = 40, 10, 7
SIDE, GAP, NAME = 128, 8, 26  # px
TEXT = "#555555"


def names() -> list[str]:
    """COUNT of the miniature's subjects."""
    lines = (ROOT / "models/training/subjects.txt").read_text(encoding="utf-8").splitlines()
    subjects = [line for line in lines if line and not line.startswith("#")]
    return [subjects[i * len(subjects) // COUNT] for i in range(COUNT)]


def main() -> None:
    params, profile = load_params(ROOT), load_profile("embedded", ROOT)
    style, sampling = params.preprocess.vanilla_caption, profile.sampling
    adapter = chosen_adapter(ROOT / adapter_path("blip"))
    row = 2 * SIDE + NAME + GAP
    image = Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, COUNT // COLUMNS * row - GAP), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    drawn = []
    for i, name in enumerate(names()):
        a_name = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        base = Settings(
            f"{a_name}, {style}", "", SEED + i, sampling.sampler_steps, sampling.guidance_scale, SIDE, SIDE,
            str(ROOT / profile.base.id), None, "float32",
        )  # fmt: skip
        drawn += [(i, 0, name, base), (i, 1, name, replace(base, adapters=(adapter,)))]
    studio = Studio()
    for i, below, name, settings in tqdm(sorted(drawn, key=lambda one: one[1]), desc="forty prompts"):
        left, top = i % COLUMNS * (SIDE + GAP), i // COLUMNS * row
        image.paste(studio.draw(settings, profile), (left, top + below * SIDE))
        short = name if font.getlength(name) <= SIDE else name.split()[0] + " …"
        pen.text((left + SIDE / 2, top + 2 * SIDE + NAME / 2), short, TEXT, font, "mm")
    image.quantize(256).save(ROOT / "docs/forty_prompts.png", optimize=True)


if __name__ == "__main__":
    main()
