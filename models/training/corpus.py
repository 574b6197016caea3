"""The training corpus of the embedded models: every OpenMoji drawing as small pictures in colour and as line art.

    npm pack openmoji@17.0.0 && tar xzf openmoji-17.0.0.tgz
    python models/training/corpus.py --package package

Writes `work/corpus.safetensors` (`color` and `line`, each (N, VIEWS, 64, 64, 3) uint8, and `painted`, the S subjects
in each of P paints, (S, P, VIEWS, 64, 64, 3)) and `work/corpus.json` (name, tags, subject, held_out of each of the N
drawings) beside this file.
View 0 frames the drawing as the preprocess stage frames a scan. The other views are shifted and
scaled at full resolution, so that augmentation never blurs a line.
"""

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from openmoji import PAINTS, flash_subjects, list_drawings, read_svg, render_pair, render_svg, repaint_svg
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tattoo_lora.split import file_sha256, is_held_out  # noqa: E402

WORK = Path(__file__).with_name("work")
RESOLUTION = 64
VIEWS = 8


@dataclass(frozen=True)
class Corpus:
    """N drawings. `color`, `line`: (N, VIEWS, 64, 64, 3) uint8. `subject`: one of the sample drawings.

    `painted`: the S subjects in each of P paints, (S, P, VIEWS, 64, 64, 3) uint8.
    `held_out`: the pipeline holds its line drawing out, so no model may train on the line art (bool (N,)).
    """

    color: Tensor
    line: Tensor
    painted: Tensor
    names: list[str]
    tags: list[list[str]]
    subject: Tensor
    held_out: Tensor


def frame(picture: Image.Image, box: tuple[int, int, int, int], margin: float, dx: float, dy: float) -> np.ndarray:
    """The box of `picture`, squared, with `margin` around it and its centre moved (both as shares of its side)."""
    side = max(box[2] - box[0], box[3] - box[1])
    half = side * (0.5 + margin)
    x = (box[0] + box[2]) / 2 + dx * side
    y = (box[1] + box[3]) / 2 + dy * side
    pad = picture.width // 2
    padded = ImageOps.expand(picture, pad, fill="white")
    window = (x - half + pad, y - half + pad, x + half + pad, y + half + pad)
    return np.asarray(padded.resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS, box=window))


def load_corpus() -> Corpus:
    """The corpus that this script wrote; FileNotFoundError before it ran."""
    arrays = load_file(WORK / "corpus.safetensors")
    rows = json.loads((WORK / "corpus.json").read_text(encoding="utf-8"))
    return Corpus(
        arrays["color"],
        arrays["line"],
        arrays["painted"],
        [row["name"] for row in rows],
        [row["tags"] for row in rows],
        torch.tensor([row["subject"] for row in rows]),
        torch.tensor([row["held_out"] for row in rows]),
    )


def pixel_values(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1] for (B, H, W, 3) uint8."""
    return pictures.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="the unpacked npm package openmoji")
    args = parser.parse_args()

    val_share = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["preprocess"]["val_share"]
    subjects = set(flash_subjects())
    color, line, painted, rows = [], [], [], []
    for drawing in tqdm(list_drawings(args.package), unit="drawing"):
        rng = random.Random(drawing.hexcode)
        views = [(0.06, 0.0, 0.0)]
        views += [(m := rng.uniform(0.02, 0.16), rng.uniform(-m, m), rng.uniform(-m, m)) for _ in range(VIEWS - 1)]
        in_color, in_line, box = render_pair(args.package, drawing, size=512)
        color.append(np.stack([frame(in_color, box, *view) for view in views]))
        line.append(np.stack([frame(in_line, box, *view) for view in views]))
        held_out = False
        if drawing.name in subjects:
            svg = read_svg(args.package, drawing, "color")
            painted.append(
                np.stack(
                    [
                        [frame(render_svg(repaint_svg(svg, paint, rng), size=512), box, *view) for view in views]
                        for paint in PAINTS
                    ]
                )
            )
            sample = ROOT / "data/raw/flash" / (drawing.name.replace(" ", "-") + ".png")
            held_out = is_held_out(file_sha256(sample), val_share)
        rows.append(
            {"name": drawing.name, "tags": drawing.tags, "subject": drawing.name in subjects, "held_out": held_out}
        )
    WORK.mkdir(exist_ok=True)
    arrays = {"color": color, "line": line, "painted": painted}
    save_file({key: torch.from_numpy(np.stack(parts)) for key, parts in arrays.items()}, WORK / "corpus.safetensors")
    (WORK / "corpus.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    subjects, held_out = (sum(row[key] for row in rows) for key in ("subject", "held_out"))
    print(f"{len(rows)} drawings, {subjects} of them subjects, {held_out} held out")


if __name__ == "__main__":
    main()
