"""Train and compare the three LoRA variants: checks the machine, runs `dvc repro`, says where the results are.

    python main.py                              the sample drawings with the embedded models: no GPU, no network
    python main.py --images ~/my-flash          bring a folder of your own drawings in, and run on it
    python main.py --dataset flash              go back to the sample, or to another folder in data/raw
    python main.py --profile sd15               Stable Diffusion 1.5 from the hub, on a GPU
    python main.py -S train.rank=4              with a param, or -S profiles/sd15.yaml:KEY=VALUE, set to that
    python main.py release --variant blip_plus  an adapter with its model card, to hand on; see release --help

Only what a change invalidates is run again; a second run does nothing.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import get_args, get_type_hints

ROOT = Path(__file__).resolve().parent
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 30  # seconds that a stage has to end by itself


def stop(message: str) -> None:
    """End with one line; works before any package can be imported."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def first_commands(system: str) -> tuple[str, str]:
    """What makes the environment and what starts the run in it, for the shell of a system: posix, or nt for Windows."""
    if system == "nt":  # in Windows' own PowerShell, && is an error
        return r"py -m venv .venv; .venv\Scripts\pip install -r requirements.txt", r".venv\Scripts\python main.py"
    return "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt", ".venv/bin/python main.py"


def check_environment() -> None:
    """Stop if Python is too old, or if a package or the Git repository is missing; note packages of other versions.

    Uses the standard library alone: the caller may have nothing else.
    """
    if sys.version_info < (3, 11):
        stop(f"Python {sys.version_info.major}.{sys.version_info.minor}: 3.11 or newer is needed")
    missing, others = [], []
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9_.-]+)==([^\s;#]+)", line):
            try:
                found = metadata.version(match[1]).split("+")[0]  # torch's CPU build is 2.13.0+cpu
            except metadata.PackageNotFoundError:
                missing.append(match[1])
            else:
                if found != match[2]:
                    others.append(f"{match[1]} {found} instead of {match[2]}")
    python = next((path for path in (".venv/bin/python", ".venv/Scripts/python.exe") if (ROOT / path).is_file()), None)
    here = python and (ROOT / python).parent.resolve() == Path(sys.executable).parent.resolve()
    install = "run `pip install -r requirements.txt`"
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        if python and not here:
            install = f"the environment is in .venv: run `{python} main.py`"
        elif len(missing) > 3:
            install = "run `{}`, then `{}`".format(*first_commands(os.name))
        stop(f"not installed: {some}; {install}")
    if others:
        print(
            f"note: {', '.join(others)}; the project is tested with those of requirements.txt: {install}",
            file=sys.stderr,
        )
    if not any((folder / ".git").exists() for folder in (ROOT, *ROOT.parents)):
        stop(f"{ROOT}: no Git repository; DVC works in one: clone the project, or run `git init` here")


def run_dvc() -> int:
    """The exit status of `dvc repro`. A signal that stops main.py stops the running stage too.

    After Ctrl-C a training keeps its snapshot, and DVC releases its lock.
    """
    # The stages run `python`: make that this one, whether or not its environment is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    received, process = [], None

    def pass_on(number, frame) -> None:
        received.append(number)
        if process is not None:
            send(signal.SIGINT)

    def send(number: int) -> None:
        try:
            if os.name == "posix":
                os.killpg(process.pid, number)
        except ProcessLookupError:
            pass

    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT:  # nohup ignores SIGHUP
            signal.signal(number, pass_on)
    # A session of its own, so that all of it can be stopped at once and a terminal's Ctrl-C comes once.
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=ROOT, env={**os.environ, "PATH": path}, start_new_session=True
    )
    if received:
        send(signal.SIGINT)
    while True:
        try:
            code = process.wait(timeout=PATIENCE if received else 1)
            break
        except subprocess.TimeoutExpired:
            if received and os.name == "posix":
                send(signal.SIGKILL)
    if code < 0:  # DVC was killed: what it started goes too, or it would write where the next run does
        send(signal.SIGKILL)
    if received:
        print("stopped; run it again and it goes on where it was", file=sys.stderr)
        sys.exit(128 + received[0])
    return code


def results_line(label: str, path: str) -> str:
    return f"  {label:<28}{path}"


def main() -> None:
    check_environment()
    # From here on these can be imported.
    from app import release
    from app.ahead import check_models, plan, results
    from app.own_folder import bring_in, is_set_name, named_drawings, read_setting, set_params
    from tattoo_lora.errors import UserError, one_line_errors
    from tattoo_lora.params import CaptionBlipParams, load_params, load_profile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="a file under profiles/, without .yaml")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", help="a folder under data/raw/")
    source.add_argument("--images", type=Path, help="a folder of drawings to copy into data/raw/ and use")
    allowed = get_args(get_type_hints(CaptionBlipParams)["captions_from"])
    parser.add_argument("--captions-from", choices=allowed, help="whose captions: sets caption_blip.captions_from")
    parser.add_argument(
        "-S",
        dest="settings",
        action="append",
        default=[],
        metavar="[FILE:]KEY=VALUE",
        help="set a value in params.yaml or in profiles/NAME.yaml",
    )
    commands = parser.add_subparsers(dest="command", metavar="[release]", help="hand an adapter on")
    release_command = commands.add_parser(
        "release", description=release.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    release.add_options(release_command)
    args = parser.parse_args()
    if args.command and (args.profile or args.dataset or args.images or args.captions_from or args.settings):
        parser.error("a release takes the results as they are; profile and dataset come from params.yaml")
    with one_line_errors():
        if args.command == "release":
            release.run(args, ROOT)
            return
        params = load_params(ROOT)  # before anything is changed
        settings = [read_setting(text) for text in args.settings]
        profile = load_profile(args.profile or params.profile, ROOT)
        check_models(profile, params.captioners.values(), ROOT)
        dataset = bring_in(args.images, ROOT) if args.images else args.dataset or params.dataset
        folder = ROOT / "data/raw" / dataset
        if args.dataset and not folder.is_dir():
            datasets = ", ".join(sorted(p.name for p in (ROOT / "data/raw").iterdir() if p.is_dir()))
            raise UserError(f"{folder.relative_to(ROOT)}: no such folder; there are: {datasets}")
        if not is_set_name(dataset):
            raise UserError(f"data/raw/{dataset}: letters, digits, - and _ only, for the stages' commands; rename it")
        chosen = {"dataset": args.dataset or (args.images and dataset), "profile": args.profile}
        chosen["caption_blip.captions_from"] = args.captions_from
        set_params(ROOT, [("params.yaml", key, value) for key, value in chosen.items() if value] + settings)
        params = load_params(ROOT)
        profile = load_profile(params.profile, ROOT)
        named, drawings = named_drawings(folder)
        if args.images and params.caption_blip.captions_from == "blip" and 2 * named > drawings:
            print(
                f"{named} of {drawings} names say what is drawn. To caption by them: python main.py --captions-from "
                "names-then-blip (and back: --captions-from blip)"
            )
        print(plan(params, profile, drawings), flush=True)

        lock = ROOT / "dvc.lock"
        before = lock.read_bytes() if lock.is_file() else b""
        if run_dvc() != 0:
            raise UserError(
                "`dvc repro` stopped, see above; what was finished is kept, and `dvc checkout` brings back "
                "the earlier result of the stage that stopped"
            )
        if lock.read_bytes() == before:
            print("\nNothing to do: everything is up to date.")
        print("\n" + results(ROOT / "metrics/findings.json") + "\n")
        print(results_line("what came of it, to read", "metrics/report.html"))
        print(results_line("all tables", "plots/comparison.md"))
        print(results_line("the comparison, in pictures", "plots/comparison.png"))
        print(results_line("loss and score by step", "plots/training_curves.png"))
        print(results_line("the adapters", "runs/lora/<variant>/best.safetensors"))


if __name__ == "__main__":
    main()
