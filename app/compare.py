"""Draw the same prompts and seeds with several adapters, side by side.

    python -m app.compare "an owl, line tattoo" "a rose, line tattoo" --with base vanilla blip blip_plus
    python -m app.compare --prompts prompts.txt --with blip rank16:blip ~/Downloads/flash.safetensors --seeds 7 8

Each after --with is a column: `base`, a variant, EXPERIMENT:VARIANT (an experiment, branch or commit that DVC knows),
or an adapter's file. Writes one labelled grid, comparison.png, and a PNG with its settings for each picture.
"""

import argparse
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

from app import OUT
from app.checks import writable
from app.generate import adapter_path, add_picture_options, draw, read_prompts, save, settings_for
from app.runs import open_files
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.params import load_params, load_profile


def find_adapter(column: str, variants: list[str], folder: Path) -> Path | None:
    """The adapter's file that a column names, None for the base; an experiment's is copied into the folder."""
    if column == "base":
        return None
    if column in variants:
        return adapter_path(column)
    if column.endswith(".safetensors"):
        return Path(column).expanduser()
    experiment, _, variant = column.partition(":")
    if variant in variants:
        return fetch(experiment, variant, folder)
    raise UserError(
        f"--with {column}: neither base, a variant ({', '.join(variants)}), EXPERIMENT:VARIANT nor a .safetensors file"
    )


def fetch(experiment: str, variant: str, folder: Path) -> Path:
    """A copy of the experiment's adapter from DVC's cache or remote; UserError if there is none."""
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    source, target = adapter_path(variant).as_posix(), folder / f"{slug(experiment)}_{variant}.safetensors"
    try:
        files, prefix = open_files(experiment)
        with files.open(prefix + source, "rb") as adapter:
            folder.mkdir(parents=True, exist_ok=True)
            with replace_file(target) as partial, partial.open("wb") as copy:
                shutil.copyfileobj(adapter, copy)
    except (DvcException, SCMError, OSError) as error:
        raise UserError(f"{experiment}:{variant}: DVC has no such adapter ({error}); see `dvc exp list`") from None
    return target


def slug(text: str) -> str:
    """The text as a part of a file name: a dash for each run of blanks and signs."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m app.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompt", nargs="*", help="rows; default: evaluate.prompts of params.yaml")
    parser.add_argument("--with", dest="columns", nargs="+", required=True, metavar="COLUMN", help="see above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    add_picture_options(parser)
    parser.add_argument("--out", type=Path, default=OUT / "compare", help=f"folder; default: {OUT / 'compare'}")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    all_params = load_params()
    profile = load_profile(args.profile or all_params.profile)
    prompts = read_prompts(args.prompts) if args.prompts else args.prompt or all_params.evaluate.prompts
    writable(args.out)
    adapters = {column: find_adapter(column, list(all_params.variants), args.out) for column in args.columns}
    if len(set(args.seeds)) < len(args.seeds):
        raise UserError("--seeds: one stands there twice")
    settings = {column: settings_for(args, profile, path, prompts, args.seeds) for column, path in adapters.items()}

    from stages.report.figures import comparison, save_figure
    from tattoo_lora.progress import tqdm

    rows = [(prompt, seed) for prompt in prompts for seed in args.seeds]
    progress = tqdm(total=len(rows) * len(adapters), unit="picture")
    images, written = {}, []
    for column, path in adapters.items():
        # A file is called by its short name unless another column has that name: many adapters are called best.
        short = path is not None and column.endswith(".safetensors") and path.stem not in images
        label = path.stem if short else column
        images[label] = []
        for one, image in zip(settings[column], draw(settings[column], profile), strict=True):
            file = save(image, one, args.out / slug(label))
            images[label].append(image)
            written.append({"file": str(file), "column": label, "settings": asdict(one)})
            progress.update()
    progress.close()
    notes = [f"seed {seed}" for _, seed in rows] if len(args.seeds) > 1 else []
    save_figure(comparison([prompt for prompt, _ in rows], images, notes), args.out / "comparison.png")
    if args.json:
        print(json.dumps({"comparison": str(args.out / "comparison.png"), "pictures": written}, indent=2))
    else:
        print(args.out / "comparison.png")


if __name__ == "__main__":
    main()
