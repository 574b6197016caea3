"""How long each stage took when it last ran.

Times are kept apart from all outputs, whose bytes must not depend on how fast a machine is.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tattoo_lora.files import replace_file

# The project's own folder, for experiments in a temporary one too.
FOLDER = Path(os.environ.get("DVC_ROOT", "."), ".scratch/times")


@contextmanager
def recorded_time() -> Iterator[None]:
    """Record how long this process took, with its imports, if DVC runs it as a stage and it succeeds."""
    yield
    stage = os.environ.get("DVC_STAGE")
    if not stage:
        return
    now = time.time()
    FOLDER.mkdir(parents=True, exist_ok=True)
    times = {"seconds": now - psutil.Process().create_time(), "ended": now}
    with replace_file(FOLDER / f"{stage}.json") as partial:
        partial.write_text(json.dumps(times), encoding="utf-8", newline="\n")


def read_times() -> dict[str, float]:
    """Seconds by stage, in the order in which the stages ended."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")}
    return {stage: run["seconds"] for stage, run in sorted(runs.items(), key=lambda item: item[1]["ended"])}
