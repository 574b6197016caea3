"""Draw the corpus of the embedded models: subjects in coloured hands, in paints, and as line art of many hands.

    python draw_corpus.py work/packages --out work/corpus

Writes `drawings.safetensors` (`color` and `painted`, (N, MASTER, MASTER, 3), and `line`, (N, MASTER, MASTER), uint8),
`unseen.safetensors` (`line`, of the hands that no model is trained on) and `drawings.json`, whose lists describe the
rows of each; corpus.py reads them.
"""

import argparse
import io
import json
import random
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import resvg_py
import torch
import yaml
from corpus import BOX, MASTER, Row
from hands import Hand, IconSet, draw_subjects, read_aliases, read_hands
from openmoji import HEX_COLOR, PAINTS, Drawing, flash_subjects, list_drawings, repaint_svg
from PIL import Image, ImageColor
from recipe import ROOT, WORK, load_params
from safetensors.torch import save_file
from tqdm import tqdm

sys.path.append(str(ROOT))

from tattoo_lora.data.split import file_sha256, held_out  # noqa: E402


def outline_svg(svg: str, share: float) -> str:
    """A coloured drawing as line art: every shape white with a black edge, `share` of the drawing's side wide.

    Dark shapes stay black, so that eyes do. It's how a hand that never drew outlines may have drawn them.
    """
    side = float(re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+)', svg)[1])

    def tone(match: re.Match) -> str:
        return "#000000" if ImageColor.getcolor(match[0], "L") < 60 else "#FFFFFF"

    plain = re.sub(r"url\([^)]*\)", "#FFFFFF", HEX_COLOR.sub(tone, svg))
    plain = re.sub(r'(?:[a-z]+-)?opacity="[^"]*"', "", plain)
    edges = f'<g stroke="#000000" stroke-width="{side * share:.3f}" stroke-linejoin="round" stroke-linecap="round">'
    head, body = plain.split(">", 1)
    return f"{head}>{edges}{body.removesuffix('</svg>')}</g></svg>"


def render_master(svg: str, box: tuple[int, int, int, int] | None = None) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """The SVG on white, (MASTER, MASTER, 3) uint8, and its box; `box` instead of its own; None for a blank picture."""
    size = 320
    rgba = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)))).convert("RGBA")
    on_white = Image.new("RGBA", rgba.size, "white")
    on_white.alpha_composite(rgba)
    picture = on_white.convert("RGB")
    if box is None:
        drawn = (np.asarray(picture) < 250).any(axis=2)
        rows, columns = drawn.any(axis=1).nonzero()[0], drawn.any(axis=0).nonzero()[0]
        if not len(rows):
            return None
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    half = max(box[2] - box[0], box[3] - box[1]) / 2 * MASTER / BOX
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    pad = size
    padded = Image.new("RGB", (picture.width + 2 * pad, picture.height + 2 * pad), "white")
    padded.paste(picture, (pad, pad))
    window = (x - half + pad, y - half + pad, x + half + pad, y + half + pad)
    return np.asarray(padded.resize((MASTER, MASTER), Image.Resampling.LANCZOS, box=window)), box


class Table:
    """Masters and their rows, as they are drawn."""

    def __init__(self) -> None:
        self.pictures: dict[str, list[np.ndarray]] = {"color": [], "painted": [], "line": [], "unseen": []}
        self.rows: dict[str, list[Row]] = {key: [] for key in self.pictures}

    def add(self, kind: str, svg: str, row: Row, box: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
        """Draw one; line art in one channel. Its box, None where nothing can be seen."""
        rendered = render_master(svg, box)
        if rendered is None:
            return None
        picture, box = rendered
        self.pictures[kind].append(
            picture if kind in ("color", "painted") else picture.mean(axis=2).round().astype("u1")
        )
        self.rows[kind].append(row)
        return box

    def add_painted(self, svg: str, row: Row, box: tuple[int, ...], count: int, rng: random.Random) -> None:
        for paint in rng.sample(sorted(PAINTS), count):
            painted = Row(row.hand, row.name, row.subject, row.held_out, paint)
            self.add("painted", repaint_svg(svg, paint, rng), painted, box)


def draw_openmoji(table: Table, archive: Path, drawings: list[Drawing], held_out: set[str], params: dict) -> None:
    """OpenMoji's drawings of all things in colour and as line art, the subjects in paints too."""
    subjects = set(flash_subjects())
    wanted = {f"package/{kind}/svg/{d.hexcode}.svg": (kind, d) for d in drawings for kind in ("color", "black")}
    texts = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name in wanted:
                texts[member.name] = tar.extractfile(member).read().decode("utf-8")
    for drawing in tqdm(drawings, desc="openmoji", mininterval=10):
        color, black = (texts[f"package/{kind}/svg/{drawing.hexcode}.svg"] for kind in ("color", "black"))
        row = Row("openmoji", drawing.name, drawing.name in subjects, drawing.name in held_out)
        box = table.add("color", color, row)
        table.add("line", black, row)
        if row.subject:
            rng = random.Random(f"{params['seed']} openmoji {drawing.name}")
            table.add_painted(color, row, box, params["paints"], rng)


def draw_icons(table: Table, icons: IconSet, subjects: list[str], aliases: dict[str, list[str]], params: dict) -> None:
    """One Iconify hand: its subjects; in paints and as outlines too where it is coloured; others where it is not."""
    hand: Hand = icons.hand
    kind = {"coloured": "color", "line": "line", "unseen": "unseen"}[hand.group]
    taken = set()
    for subject, svg in tqdm(list(draw_subjects(icons, subjects, aliases)), desc=hand.name, mininterval=10):
        row = Row(hand.name, subject, subject=True, held_out=False)
        rng = random.Random(f"{params['seed']} {hand.name} {subject}")
        box = table.add(kind, svg, row)
        taken.add(icons.find(subject, aliases))
        if hand.group == "coloured" and box is not None:
            table.add_painted(svg, row, box, params["paints"], rng)
            if hand.outlined:
                outlined = Row(f"{hand.name} outlined", subject, subject=True, held_out=False)
                table.add("line", outline_svg(svg, rng.uniform(0.012, 0.035)), outlined)
    if hand.group == "line":
        for name in [name for name in icons.others if name not in taken][: params["others"]]:
            table.add(kind, icons.svg(name), Row(hand.name, None, subject=False, held_out=False))


def read_openmoji(archive: Path) -> list[Drawing]:
    """OpenMoji's drawings of things, from the package's .tgz."""
    with tarfile.open(archive) as tar:
        return list_drawings(json.load(tar.extractfile("package/data/openmoji.json")))


def held_out_subjects(samples: Path, share: float, by_pipeline: float) -> set[str]:
    """Names of the sample drawings whose line art no model may learn: `share` of them, by the pipeline's own rule.

    The rule takes the lowest hashes, so those that the pipeline holds out are among them; ValueError if it wouldn't.
    """
    if share < by_pipeline:
        raise ValueError(f"params.yaml: held_out_share {share} is less than the pipeline holds out, {by_pipeline}")
    names = {file_sha256(samples / (name.replace(" ", "-") + ".png")): name for name in flash_subjects()}
    return {names[content] for content in held_out(names, share)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="the folder that packages.py filled")
    parser.add_argument("--out", type=Path, default=WORK / "corpus")
    args = parser.parse_args()

    params = load_params("corpus")
    preprocess = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["preprocess"]
    subjects, aliases, hands = flash_subjects(), read_aliases(), read_hands()
    openmoji = next(hand for hand in hands if hand.name == "openmoji")
    drawings = read_openmoji(args.packages / openmoji.archive)
    table = Table()
    draw_openmoji(
        table,
        args.packages / openmoji.archive,
        drawings,
        held_out_subjects(
            ROOT / "data/raw/flash", params["held_out_share"], preprocess["val_share"] + preprocess["test_share"]
        ),
        params,
    )
    for hand in hands:
        if hand is not openmoji:
            draw_icons(table, IconSet(args.packages / hand.archive, hand), subjects, aliases, params)

    args.out.mkdir(parents=True, exist_ok=True)
    arrays = {key: torch.from_numpy(np.stack(pictures)) for key, pictures in table.pictures.items()}
    save_file({"line": arrays.pop("unseen")}, args.out / "unseen.safetensors")
    save_file(arrays, args.out / "drawings.safetensors")
    described = {key: [vars(row) for row in rows] for key, rows in table.rows.items()}
    described |= {"names": [d.name for d in drawings], "tags": [d.tags for d in drawings], "subjects": subjects}
    (args.out / "drawings.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    for key, rows in table.rows.items():
        print(f"{key}: {len(rows)} drawings by {len({row.hand for row in rows})} hands")


if __name__ == "__main__":
    main()
