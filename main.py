"""Train and compare the three LoRA variants: checks the machine, runs `dvc repro`, says where the results are.

    python main.py                              the sample drawings with the embedded models: no GPU, no network
    python main.py --images ~/flash             bring a folder of your own drawings in, and run on it
    python main.py --dataset flash              go back to a folder that is in data/raw already
    python main.py --profile sd15               Stable Diffusion 1.5 from the hub, on a GPU
    python main.py release --variant blip_plus  an adapter with its model card, to hand on; see release --help

Whatever a change does not invalidate is not run again; run it twice and the second does nothing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from app import release
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.hub import is_folder_path
from tattoo_lora.params import Profile, load_params, load_profile

ROOT = Path(__file__).resolve().parent


def check_environment() -> None:
    """UserError for a Python, a package or a Git repository that is not there."""
    if sys.version_info < (3, 11):
        raise UserError(f"Python {sys.version_info.major}.{sys.version_info.minor}: 3.11 or newer is needed")
    missing = []
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9_.-]+)==", line):
            try:
                metadata.version(match[1])
            except metadata.PackageNotFoundError:
                missing.append(match[1])
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}; run `pip install -r requirements.txt`")
    if not (ROOT / ".git").exists():
        raise UserError(f"{ROOT}: no Git repository; DVC works in one: clone the project, or run `git init` here")


def check_models(profile: Profile) -> None:
    """UserError for a model folder that is not there, before any stage runs."""
    for model in (profile.base_model, profile.caption_model, profile.clip_model):
        if is_folder_path(model) and not (ROOT / model).is_dir():
            raise UserError(f"{model}: no such model folder; see the model ids in profiles/*.yaml")


def bring_in(images: Path) -> str:
    """Copy a folder of drawings to data/raw/<its name>; the name. What is there already is kept, and added to."""
    if not images.is_dir():
        raise UserError(f"{images}: no such folder")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", images.resolve().name).strip("-") or "drawings"
    target = ROOT / "data/raw" / name
    if target != images.resolve():
        shutil.copytree(images, target, dirs_exist_ok=True)
    return name


def set_key(key: str, value: str) -> None:
    """Change a top-level key of params.yaml and nothing else in the file: its comments stay."""
    path = ROOT / "params.yaml"
    text = path.read_text(encoding="utf-8")
    changed = re.sub(rf"(?m)^{key}:(\s*)\S+", rf"{key}:\g<1>{value}", text, count=1)
    if changed != text:
        path.write_text(changed, encoding="utf-8")


def results_line(label: str, path: str) -> str:
    return f"  {label:<28}{path}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="a file under profiles/, without .yaml")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", help="a folder under data/raw/")
    source.add_argument("--images", type=Path, help="a folder of drawings to copy into data/raw/ and use")
    commands = parser.add_subparsers(dest="command", metavar="[release]", help="hand an adapter on")
    of_release = commands.add_parser(
        "release", description=release.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    release.add_options(of_release)
    args = parser.parse_args()
    if args.command and (args.profile or args.dataset or args.images):
        parser.error("a release is of the results that are there: profile and dataset are those of params.yaml")
    with one_line_errors():
        check_environment()
        if args.command == "release":
            release.run(args, ROOT)
            return
        load_params(ROOT)  # before anything is changed
        profile = load_profile(args.profile or load_params(ROOT).profile, ROOT)
        check_models(profile)
        dataset = bring_in(args.images) if args.images else args.dataset
        if dataset and not (ROOT / "data/raw" / dataset).is_dir():
            known = ", ".join(sorted(p.name for p in (ROOT / "data/raw").iterdir() if p.is_dir()))
            raise UserError(f"data/raw/{dataset}: no such folder; there are: {known}")
        if dataset:
            set_key("dataset", dataset)
        if args.profile:
            set_key("profile", args.profile)

        # The stages run `python`: make that this one, whether or not its environment is activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        lock = ROOT / "dvc.lock"
        before = lock.read_bytes() if lock.is_file() else b""
        repro = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=ROOT, env={**os.environ, "PATH": path})
        if repro.returncode != 0:
            raise UserError(
                "`dvc repro` stopped, see above; what was finished is kept, and `dvc checkout` brings back "
                "the earlier result of the stage that stopped"
            )
        if lock.read_bytes() == before:
            print("\nNothing to do: everything is up to date.")
        print("\n" + (ROOT / "plots/comparison.md").read_text(encoding="utf-8"))
        print(results_line("what came of it, to read", "metrics/report.html"))
        print(results_line("the comparison, in pictures", "plots/comparison.png"))
        print(results_line("loss and score by step", "plots/training_curves.png"))
        print(results_line("the adapters", "runs/lora/<variant>/best.safetensors"))


if __name__ == "__main__":
    main()
