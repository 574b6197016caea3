"""Draw the same prompts and seeds with several adapters, side by side.

    python -m app.compare "an owl, line tattoo" "a rose, line tattoo" --with base vanilla blip blip_plus
    python -m app.compare --prompts prompts.txt --with blip rank16:blip ~/Downloads/flash.safetensors --seeds 7 8
    python -m app.compare "a rose" --with blip --strengths 0 0.25 0.5 0.75 1 1.25
    python -m app.compare "a rose" --with blip blip:0.7+flash.safetensors:0.4

Each after --with is a column: `base`, a variant, EXPERIMENT:VARIANT (an experiment, branch or commit that DVC knows),
an adapter's file, or several of these joined by +, each with its strength behind a colon. Writes one labelled grid,
comparison.png, and a PNG with its settings for each picture.
"""

import argparse
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

from app import OUT
from app.checks import check, writable
from app.generate import (
    STRENGTH,
    Adapter,
    Settings,
    Studio,
    adapter_path,
    add_picture_options,
    chosen_adapter,
    read_prompts,
    save,
    settings_for,
    split_strength,
    with_strength,
)
from app.runs import open_files
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.params import load_params, load_profile


def find_adapters(column: str, variants: list[str], folder: Path) -> list[Adapter]:
    """The adapters that a column names, none for the base; an experiment's is copied into the folder."""
    if column == "base":
        return []
    named = (split_strength(part) for part in column.split("+"))
    return [chosen_adapter(find_file(name, variants, folder), strength) for name, strength in named]


def find_file(name: str, variants: list[str], folder: Path) -> Path:
    """The file of one adapter that a column names."""
    if name in variants:
        return adapter_path(name)
    if name.endswith(".safetensors"):
        return Path(name).expanduser()
    experiment, _, variant = name.partition(":")
    if variant in variants:
        return fetch(experiment, variant, folder)
    raise UserError(
        f"--with {name}: neither base, a variant ({', '.join(variants)}), EXPERIMENT:VARIANT nor a .safetensors file"
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
    parser.add_argument("--strengths", type=float, nargs="+", metavar="S", help="each column so many times as strong")
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
    for strength in args.strengths or []:
        check("--strengths", strength, STRENGTH)
    adapters = {column: find_adapters(column, list(all_params.variants), args.out) for column in args.columns}
    for option, values in (("--seeds", args.seeds), ("--strengths", args.strengths or [])):
        if len(set(values)) < len(values):
            raise UserError(f"{option}: one stands there twice")
    columns: dict[str, list[Settings]] = {}
    for column, chosen in adapters.items():
        # A file is called by its short name unless another column has that name: many adapters are called best.
        stem = Path(column).stem
        label = stem if column.endswith(".safetensors") and "+" not in column and stem not in columns else column
        wanted = settings_for(args, profile, chosen, prompts, args.seeds)
        if chosen and args.strengths:
            columns |= {f"{label} at {s:g}": [with_strength(one, s) for one in wanted] for s in args.strengths}
        else:
            columns[label] = wanted

    from stages.report.figures import comparison, save_figure
    from tattoo_lora.progress import tqdm

    rows = [(prompt, seed) for prompt in prompts for seed in args.seeds]
    progress = tqdm(total=len(rows) * len(columns), unit="picture")
    images, written, studio = {}, [], Studio()
    for label, wanted in columns.items():
        images[label] = []
        for one in wanted:
            image = studio.draw(one, profile)
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
