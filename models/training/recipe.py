"""What all stages of the recipe share: where things lie, what params.yaml says, and what a stage depends on."""

import hashlib
import json
from pathlib import Path

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = HERE / "work"


def load_params(section: str) -> dict:
    """One section of params.yaml."""
    return yaml.safe_load((HERE / "params.yaml").read_text(encoding="utf-8"))[section]


def stage_key(stage: str, folder: Path = HERE) -> str:
    """A hash of all that dvc.yaml declares for the stage: the bytes of its files and its params.

    Checkpoints carry it in their name, so that a run never goes on from where another recipe stopped.
    """
    declared = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    key = hashlib.sha256()
    key.update(json.dumps({name: params[name] for name in declared.get("params", [])}, sort_keys=True).encode())
    for dep in declared["deps"]:
        path = folder / dep
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                key.update(f"{dep} {file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return key.hexdigest()[:16]
