"""A peer's training script on the same pictures: diffusers' train_text_to_image_lora.py, or one with its options.

The script is run as its users run it, as a process of its own, in this environment; what it needs beyond it
(`datasets`, `torchvision`) is the user's to install. Its threads wait as ours do: asleep, or as OMP_WAIT_POLICY says.
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.inference import pictures
from tattoo_lora.errors import UserError
from tattoo_lora.params import Model, Profile

EPOCH = 20  # steps: the script starts its loader anew for each epoch, and a real folder has more than a batch
TARGETS = re.compile(r"target_modules\s*=\s*(\[[^]]*\])")
WARM_UP = 2  # steps


def read_targets(script: Path) -> list[str]:
    """The layers that the script adapts, so that all cases can adapt the same; UserError where it does not say."""
    match = TARGETS.search(script.read_text(encoding="utf-8"))
    if match is None:
        raise UserError(f"{script}: no list of target_modules; which layers it adapts has to be known to compare")
    return ast.literal_eval(match[1])


def write_image_folder(folder: Path, profile: Profile) -> None:
    """Pictures of noise and a metadata.jsonl with their captions, as `datasets` reads an image folder."""
    folder.mkdir()
    lines = []
    count = EPOCH * profile.train.batch_size * profile.train.gradient_accumulation_steps
    for i, picture in enumerate(pictures(profile, count)):
        picture.save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"drawing {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def peer_steps(
    script: Path, base: Model, profile: Profile, rank: int, mixed_precision: str, steps: int
) -> tuple[int, float]:
    """Pictures of `steps` steps and their seconds: a long run's less a short one's, so that the start does not count.

    UserError where the script fails, with its last line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        write_image_folder(Path(scratch) / "pictures", profile)

        def run(max_train_steps: int) -> float:
            options = {
                "pretrained_model_name_or_path": base.id,
                "train_data_dir": Path(scratch) / "pictures",
                "caption_column": "text",
                "resolution": profile.resolution,
                "train_batch_size": profile.train.batch_size,
                "gradient_accumulation_steps": profile.train.gradient_accumulation_steps,
                "max_train_steps": max_train_steps,
                "lr_scheduler": "constant",
                "lr_warmup_steps": 0,
                "mixed_precision": mixed_precision,
                "rank": rank,
                "seed": 0,
                "output_dir": Path(scratch) / "out",
            } | ({} if base.revision is None else {"revision": base.revision})
            command = [sys.executable, str(script)]
            for name, value in options.items():
                command += [f"--{name}", str(value)]
            started = time.perf_counter()
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode != 0:
                last = (result.stderr.strip().splitlines() or ["no message"])[-1]
                raise UserError(f"{script} stopped with exit code {result.returncode}: {last}")
            return time.perf_counter() - started

        short = run(WARM_UP)
        counted = steps * profile.train.batch_size * profile.train.gradient_accumulation_steps
        return counted, max(run(WARM_UP + steps) - short, 1e-9)
