"""Turn a folder of drawings into square RGB PNGs of one size, and decide which of them are held out.

Reads data/raw/<dataset>/ (never written to); writes images/<stem>.png, manifest.csv and
captions_vanilla/<stem>.txt, the one style string that the vanilla variant trains on.

    python -m stages.preprocess data/raw/flash --out data/processed/flash
"""

import argparse
import shutil
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from tattoo_lora.captions import write_caption
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.manifest import Drawing, write_manifest
from tattoo_lora.params import load_params, load_profile
from tattoo_lora.split import file_sha256, is_held_out

# Notes that lie beside drawings: licences, lists, what file managers and DVC leave behind.
NOT_DRAWINGS = {".txt", ".md", ".csv", ".json", ".yaml", ".yml", ".dvc", ".db", ".ini", ".gitignore"}


def find_drawings(raw: Path) -> list[Path]:
    """All files under `raw` that may be drawings, sorted; UserError for none, or for two with the same stem."""
    files = sorted(
        path
        for path in raw.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in NOT_DRAWINGS
    )
    if not files:
        raise UserError(f"{raw}: no drawings; put image files (PNG, JPEG, WebP, TIFF…) there")
    by_stem = defaultdict(list)
    for path in files:
        # Case and Unicode form: what one file system keeps apart, another takes for the same name.
        by_stem[unicodedata.normalize("NFC", path.stem).casefold()].append(path)
    for same in by_stem.values():
        if len(same) > 1:
            names = " and ".join(str(path.relative_to(raw)) for path in same[:2])
            raise UserError(f"{raw}: {names} would both become {same[0].stem}.png; rename one")
    return files


def open_rgb(path: Path) -> Image.Image:
    """The first frame as RGB, upright as its EXIF says, transparency on white. OSError or ValueError if unreadable."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            # Deep greyscale: Pillow would clip at 255 instead of scaling.
            values = np.asarray(image, dtype=np.float64)
            top = 65535 if values.max() > 255 else 255
            image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.new("RGBA", rgba.size, "white")
            image.alpha_composite(rgba)
        return image.convert("RGB")


def background(image: Image.Image) -> tuple[int, int, int]:
    """The median colour of the picture's border: the paper that the drawing stands on."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = np.median(border, axis=0)
    return int(red), int(green), int(blue)


def fit_square(image: Image.Image, resolution: int, fit: str) -> Image.Image:
    """RGB (resolution, resolution): `pad` keeps the whole drawing on its own background, `crop` its middle."""
    size = (resolution, resolution)
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=background(image))
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def preprocess(
    raw: Path, out: Path, resolution: int, fit: str, val_share: float, vanilla_caption: str
) -> list[Drawing]:
    """Write images and vanilla captions below `out`; the manifest's rows.

    An unreadable file is reported and left out. UserError where fewer than two drawings can be read,
    or where none would be held out or none left to train on.
    """
    files = find_drawings(raw)
    for folder in ("images", "captions_vanilla"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    drawings, unreadable = [], []
    for path in tqdm(files, unit="drawing", desc="preprocess"):
        try:
            image = open_rgb(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            unreadable.append(f"{path}: {error}")
            continue
        fit_square(image, resolution, fit).save(out / "images" / f"{path.stem}.png")
        write_caption(out / "captions_vanilla", path.stem, vanilla_caption)
        sha256 = file_sha256(path)
        drawings.append(
            Drawing(
                file=f"{path.stem}.png",
                source=path.relative_to(raw).as_posix(),
                sha256=sha256,
                width=image.width,
                height=image.height,
                split="val" if is_held_out(sha256, val_share) else "train",
            )
        )
    for line in unreadable:
        print(f"left out, unreadable: {line}", file=sys.stderr)
    if len(drawings) < 2:
        raise UserError(
            f"{raw}: {len(drawings)} readable drawing(s) of {len(files)}; at least two are needed, one of them held out"
        )
    held_out = sum(drawing.split == "val" for drawing in drawings)
    if held_out in (0, len(drawings)):
        raise UserError(
            f"{raw}: {held_out} of {len(drawings)} drawings would be held out; "
            f"{'raise' if held_out == 0 else 'lower'} preprocess.val_share ({val_share:g}) or add drawings"
        )
    return drawings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder of drawings")
    parser.add_argument("--out", type=Path, required=True, help="folder for images, manifest and vanilla captions")
    args = parser.parse_args()
    with one_line_errors():
        all_params = load_params()
        params, profile = all_params.preprocess, load_profile(all_params.profile)
        if not args.raw.is_dir():
            raise UserError(f"{args.raw}: no such folder; `dataset` in params.yaml names a folder under data/raw")
        drawings = preprocess(
            args.raw, args.out, profile.resolution, params.fit, params.val_share, params.vanilla_caption
        )
        write_manifest(args.out / "manifest.csv", drawings)
        held_out = sum(drawing.split == "val" for drawing in drawings)
        print(f"{len(drawings)} drawings at {profile.resolution} px, {held_out} of them held out")


if __name__ == "__main__":
    main()
