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
from itertools import product
from pathlib import Path

from bench import BASE
from tattoo_lora.errors import one_line_errors

ROOT = Path(__file__).parents[1]
CALL = 530  # seconds of a whole call
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


def parts(call: int, out: Path, quick: bool, peer: Path | None) -> dict[str, tuple[int, list[str]]]:
    """Limit in seconds and command of each part of a call, in the order of what matters most."""
    bench = ["-m", "bench"]
    few = ["--steps", "2", "--repeats", "1"] if quick else ["--steps", "10", "--repeats", "3"]
    base = [] if quick else ["--profile", "sd15", "--base", str(out / BASE), "--resolution", "512"]
    if call == 1:
        chain = ["-m", "bench.full_size_run", str(out), "--resolution", "512", "--steps", "20", "--drawings", "24"]
        rows = {"environment": (60, ["-c", MATMUL])}
        if not quick:
            rows |= {"models": (150, ["-m", "bench.full_size_models", str(out)]), "chain": (300, [*chain, "--json"])}
        for compiled, micro, dtype in product(("off", "default", "graphs"), (8, 4, 1), ("bfloat16", "float16")):
            options = ["--compile", compiled, "--micro", str(micro), "--dtype", dtype, "--batch", "8"]
            rows[f"miniature, {compiled}, {micro} at once, {dtype}"] = (90, [*bench, "train", *few, *options])
        return rows
    rows = {}
    for compiled, (batch, accumulation) in product(("off", "default", "graphs"), ((1, 8), (8, 1), (1, 1))):
        options = ["--compile", compiled, "--batch", str(batch), "--accumulation", str(accumulation), "--checkpointing"]
        options += ["--peer", str(peer)] if peer and compiled == "off" else []
        rows[f"train, {batch} x {accumulation}, {compiled}"] = (120, [*bench, "train", *base, *few, *options])
    for part in ("sample", "encode", "caption"):
        rows[part] = (90, [*bench, part, "--count", "2" if quick else "16", "--repeats", few[-1]])
    return rows


def run_part(name: str, limit: float, command: list[str], out: Path) -> dict:
    """Run one part and append what came of it to results.jsonl."""
    started = time.monotonic()
    try:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=limit)
        status, said = ("done" if done.returncode == 0 else "failed"), done.stdout
        if done.returncode != 0:
            said = done.stderr[-2000:]
    except subprocess.TimeoutExpired:
        status, said = "out of time", ""
    result = {"part": name, "status": status, "seconds": round(time.monotonic() - started, 1), "said": said}
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def table(out: Path) -> str:
    """results.jsonl as Markdown: the status of each part, then what those said that were done."""
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    results = [json.loads(line) for line in lines]
    rows = [f"| {result['part']} | {result['status']} | {result['seconds']} s |" for result in results]
    said = [f"\n### {result['part']}\n\n{result['said'].strip()}" for result in results if result["status"] == "done"]
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
        ends = time.monotonic() + CALL
        for name, (limit, command) in parts(args.call, out, args.quick, args.peer).items():
            left = ends - time.monotonic()
            if name.startswith(args.only) and left > 10:
                result = run_part(name, min(limit, left), command, out)
                print(f"{name}: {result['status']} after {result['seconds']} s", flush=True)
        (out / "results.md").write_text(table(out), encoding="utf-8")


if __name__ == "__main__":
    main()
