"""Draw the sample drawings data/raw/flash/*.png from OpenMoji's black SVGs.

Sizes, margins and aspect ratios differ as those of a folder that somebody collected do.

    npm pack openmoji@17.0.0 && tar xzf openmoji-17.0.0.tgz
    python models/training/make_flash.py --package package
"""

import argparse
import csv
import json
import random
from pathlib import Path

from openmoji import flash_subjects, list_drawings, render_pair
from PIL import Image, ImageOps

SOURCE = "https://openmoji.org/library/emoji-{hexcode}/"


def flash_drawing(black: Image.Image, box: tuple[int, int, int, int], rng: random.Random) -> Image.Image:
    """The line art cut to its box with uneven margins of 3 to 9% and a long side of 224 to 448 px, greyscale."""
    side = max(box[2] - box[0], box[3] - box[1])
    margins = tuple(round(side * rng.uniform(0.03, 0.09)) for _ in range(4))
    picture = ImageOps.expand(black.convert("L").crop(box), margins, fill=255)
    scale = rng.randint(224, 448) / max(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="the unpacked npm package openmoji")
    parser.add_argument("--out", type=Path, default=Path("data/raw/flash"))
    args = parser.parse_args()

    entries = json.loads((args.package / "data/openmoji.json").read_text(encoding="utf-8"))
    drawings = {drawing.name: drawing for drawing in list_drawings(entries)}
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in flash_subjects():
        drawing = drawings[name]
        _, black, box = render_pair(args.package, drawing, size=512)
        file = name.replace(" ", "-") + ".png"
        # Sixteen greys keep the edges smooth and halve the file.
        picture = flash_drawing(black, box, random.Random(drawing.hexcode)).quantize(16)
        picture.save(args.out / file, optimize=True)
        rows.append([file, SOURCE.format(hexcode=drawing.hexcode), drawing.author, "CC BY-SA 4.0"])
    with (args.out / "rights.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["file", "url", "author", "license"])
        writer.writerows(sorted(rows))
    print(f"{len(rows)} drawings in {args.out}")


if __name__ == "__main__":
    main()
