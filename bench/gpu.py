"""All that has to be measured on a card, in two calls of at most nine minutes.

    python -m bench.gpu 1 --out SCRATCH                  the card itself, the miniature's matrix, the chain at 512 px
    python -m bench.gpu 2 --out SCRATCH [--peer SCRIPT]  the training bench at 512 px, pictures, latents, captions
    python -m bench.gpu 1 --out SCRATCH --quick          on any machine: the same parts with the miniature, two steps

Each part is a process of its own with a limit; its result is appended to SCRATCH/results.jsonl at once, so a call that
is cut off loses one part at most. At the end a Markdown table is written beside it. The models are made by call 1.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, product
from pathlib import Path

from bench import BASE
from tattoo_lora.errors import one_line_errors

ROOT = Path(__file__).parents[1]
CALL = 530  # seconds of a whole call
LEAST = 10  # seconds that a part must have
DTYPES = ("bfloat16", "float16")
NO_TIME = "skipped: no time left"
UNTIMED = ("losses", "resume", "deterministic", "val_loss")  # parts that run beside each other: they measure no time
MATMUL = """
import time, torch
cuda = torch.cuda.is_available()
device, side = ("cuda", 8192) if cuda else ("cpu", 512)
wait = torch.cuda.synchronize if cuda else lambda: None
a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
a @ a
wait()
started = time.perf_counter()
for _ in range(10):
    a @ a
wait()
rate = 20 * side**3 / (time.perf_counter() - started) / 1e12
name = torch.cuda.get_device_name() if cuda else device
print(f"{name}, torch {torch.__version__}, {rate:.1f} TFLOP/s in bfloat16")
"""


KINDS = {  # of trainings whose losses are held against those without compiling: params of train
    "checkpointing": ["gradient_checkpointing=true"],
    "DoRA": ["use_dora=true"],
    "text encoder": ["text_encoder_lr=1.0e-4"],
    "dropout": ["lora_dropout=0.1"],
}


def parts(call: int, out: Path, quick: bool, peer: Path | None) -> dict[str, tuple[int, list[str]]]:
    """Limit in seconds and command of each part of a call, in the order of what matters most."""
    base = [] if quick else ["--profile", "sd15", "--base", str(out / BASE), "--resolution", "512"]
    return first_call(out, quick) if call == 1 else second_call(base, quick, peer)


def first_call(out: Path, quick: bool) -> dict[str, tuple[int, list[str]]]:
    """The card, the chain at full size and on smaller cards, the miniature in all ways to train."""
    rows = {"environment": (60, ["-c", MATMUL]), "missing wheels": (30, ["-m", "bench.gpu_parts", "wheels"])}
    if not quick:
        chain = ["-m", "bench.full_size_run", str(out), "--resolution", "512", "--steps", "12", "--drawings", "24"]
        chain += ["--accumulation", "8", "--compile", "off", "--eval-every", "6"]  # compiling alone takes minutes
        rows["models"] = (150, ["-m", "bench.full_size_models", str(out)])
        rows["chain"] = (400, [*chain, "--cards", "4", "6", "8", "12", "16", "--json"])
    steps = ["--steps", "2" if quick else "10"]
    for kind, knobs in KINDS.items():
        rows[f"losses, {kind}"] = (240, ["-m", "bench.gpu_parts", "losses", *steps, "--knobs", *knobs])
    rows["resume"] = (240, ["-m", "bench.gpu_parts", "resume", "--steps", "4" if quick else "10"])
    ways = product(("off",) if quick else ("off", "default", "graphs"), (4,) if quick else (8, 4, 1), DTYPES)
    for compiled, micro, dtype in ways:
        options = ["--compile", compiled, "--micro", str(micro), "--dtype", dtype, "--batch", "8"]
        rows[f"miniature, {compiled}, {micro} at once, {dtype}"] = (
            180,
            ["-m", "bench", "train", *counted(quick), *options],
        )
    return rows


def second_call(base: list[str], quick: bool, peer: Path | None) -> dict[str, tuple[int, list[str]]]:
    """The training bench at full size, a profile, what is the same twice and in other dtypes, pictures."""
    rows = {}
    batches = ((2, 1),) if quick else ((1, 8), (8, 1), (1, 1))
    for compiled, (batch, accumulation) in product(("off",) if quick else ("off", "default", "graphs"), batches):
        options = ["--compile", compiled, "--batch", str(batch), "--accumulation", str(accumulation), "--checkpointing"]
        options += ["--peer", str(peer)] if peer and compiled == "off" else []
        rows[f"train, {batch} x {accumulation}, {compiled}"] = (
            400,
            ["-m", "bench", "train", *base, *counted(quick), *options],
        )
    steps = ["--steps", "2" if quick else "8"]
    for part in ("profile", "deterministic", "val_loss"):
        rows[part] = (90, ["-m", "bench.gpu_parts", part, *base, *steps])
    for part in ("sample",) if quick else ("sample", "encode", "caption"):
        options = ["--count", "2" if quick else "16", "--repeats", counted(quick)[-1]]
        rows[part] = (90, ["-m", "bench", part, *options])
    return rows


def counted(quick: bool) -> list[str]:
    """How long a bench of trainings takes."""
    return ["--steps", "1", "--repeats", "1"] if quick else ["--steps", "10", "--repeats", "3"]


def run_part(name: str, limit: float, command: list[str], out: Path) -> dict:
    """Run one part and append what came of it to results.jsonl."""
    started = time.monotonic()
    try:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=limit)
        status, said = ("done" if done.returncode == 0 else "failed"), done.stdout
        if done.returncode != 0:
            said = done.stderr[-2000:]
    except subprocess.TimeoutExpired as error:
        status, said = "out of time", (error.stdout or b"").decode(errors="replace")
    return keep(out, name, status, time.monotonic() - started, said)


def keep(out: Path, name: str, status: str, seconds: float, said: str = "") -> dict:
    """Append what came of a part to results.jsonl."""
    result = {"part": name, "status": status, "seconds": round(seconds, 1), "said": said}
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def run_call(chosen: dict[str, tuple[int, list[str]]], out: Path, limit: float) -> None:
    """Run the parts one after the other, neighbours that measure no time beside each other.

    Those that the limit in seconds leaves no time for are named too.
    """
    ends = time.monotonic() + limit

    def run(name: str) -> None:
        part_limit, command = chosen[name]
        left = ends - time.monotonic()
        result = keep(out, name, NO_TIME, 0) if left < LEAST else run_part(name, min(part_limit, left), command, out)
        print(f"{name}: {result['status']} after {result['seconds']} s", flush=True)

    with ThreadPoolExecutor() as pool:
        for is_untimed, names in groupby(chosen, lambda name: name.startswith(UNTIMED)):
            each = pool.map if is_untimed else map
            list(each(run, names))
    (out / "results.md").write_text(table(out), encoding="utf-8")


def table(out: Path) -> str:
    """results.jsonl as Markdown: the status of each part, then what each said, or why it failed."""
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    results = [json.loads(line) for line in lines]
    rows = [f"| {result['part']} | {result['status']} | {result['seconds']} s |" for result in results]
    said = [f"\n### {result['part']}\n\n{result['said'].strip()}" for result in results if result["said"].strip()]
    return "\n".join(["| part | status | time |\n|---|---|---:|", *rows, *said]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("call", type=int, choices=[1, 2])
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder outside of the project for models and results"
    )
    parser.add_argument("--peer", type=Path, help="your copy of diffusers' train_text_to_image_lora.py")
    parser.add_argument("--quick", action="store_true", help="the miniature in full size's place")
    parser.add_argument("--only", default="", help="parts whose names begin so")
    args = parser.parse_args()
    with one_line_errors():
        out = args.out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        chosen = parts(args.call, out, args.quick, args.peer)
        if args.quick:  # on a busy CPU a part may take long
            chosen = {name: (CALL, command) for name, (_, command) in chosen.items()}
        run_call({name: part for name, part in chosen.items() if name.startswith(args.only)}, out, CALL)


if __name__ == "__main__":
    main()
