"""Snapshots from which an interrupted training goes on. DVC removes outputs before a rerun, so they lie elsewhere.

A snapshot holds nested dicts and lists of tensors and plain values, as optimizers and schedulers give them, in a
safetensors file and a JSON file, and a copy of what the run had written so far. No pickles.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(os.environ.get("DVC_ROOT", "."))  # the project's own folder for experiments in a temporary one too


class Checkpoints:
    """The newest snapshot of one run. `outputs` are the files and folders that the run writes as it goes."""

    def __init__(self, key: str, outputs: list[Path]) -> None:
        self.folder, self.outputs = ROOT / ".scratch/train" / key, outputs

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep `state` and the outputs as they are; those before are dropped when this one is whole.

        Two processes may make the same training, as two queued experiments do that differ in what comes after it:
        they write the same, so the first to have a step keeps it.
        """
        partial = self.folder / f"partial{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors: dict[str, Tensor] = {}
        (partial / "state.json").write_text(json.dumps(_flatten(state, "", tensors)), encoding="utf-8", newline="\n")
        save_file(tensors, partial / "state.safetensors")
        for i, output in enumerate(self.outputs):
            if output.is_dir():
                shutil.copytree(output, partial / f"output{i}")
            elif output.exists():
                shutil.copyfile(output, partial / f"output{i}")
        whole = self.folder / f"step{step:08d}"
        try:
            os.replace(partial, whole)
        except OSError:
            if not whole.is_dir():
                raise
            shutil.rmtree(partial)
        for snapshot in self._snapshots():
            if snapshot < whole:
                shutil.rmtree(snapshot, ignore_errors=True)

    def restore_outputs(self) -> bool:
        """Put the outputs back as they were in the newest snapshot; False if there is none.

        Of several processes one does it.
        """
        snapshots = self._snapshots()
        for i, output in enumerate(self.outputs if snapshots else []):
            if output.is_dir():
                shutil.rmtree(output)
            output.unlink(missing_ok=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            kept = snapshots[-1] / f"output{i}"
            if kept.is_dir():
                shutil.copytree(kept, output)
            elif kept.exists():
                shutil.copyfile(kept, output)
        return bool(snapshots)

    def load(self) -> dict[str, Any] | None:
        """The newest state; None if there is no snapshot."""
        snapshots = self._snapshots()
        if not snapshots:
            return None
        tensors = load_file(snapshots[-1] / "state.safetensors")
        return _restore(json.loads((snapshots[-1] / "state.json").read_text(encoding="utf-8")), tensors)

    def clear(self) -> None:
        """Remove the snapshots of a run that is finished. What another process is still writing stays."""
        for snapshot in self._snapshots():
            shutil.rmtree(snapshot, ignore_errors=True)
        for partial in self.folder.glob("partial*"):
            if not psutil.pid_exists(int(partial.name.removeprefix("partial"))):
                shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty, or gone
            self.folder.rmdir()

    def _snapshots(self) -> list[Path]:
        return sorted(self.folder.glob("step*"))


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A copy: safetensors refuses tensors that share memory, as a moving average and its source may.
        tensors[path] = value.detach().cpu().clone().contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_flatten(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    return value


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if isinstance(value, dict) and "tensor" in value:
        return tensors[value["tensor"]]
    if isinstance(value, dict):
        return {key: _restore(item, tensors) for key, item in value["dict"]}
    return value
