"""Keys of what is kept outside of DVC's outputs, memos and snapshots: a hash of all that a result depends on.

What DVC would call a stage's deps and params stands in the key too, so that a kept result is never older than its code.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tattoo_lora.data.split import file_sha256
from tattoo_lora.memo import Memo
from tattoo_lora.params import Model

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = "accelerate diffusers ImageHash numpy peft pillow safetensors scikit-image scipy torch transformers".split()
LARGE = 2**26  # bytes; the hashes of such files are kept too: a full-size model takes half a minute to read


@cache
def imported_files(source: Path) -> frozenset[Path]:
    """The project's own files that a Python file imports, wherever in it, and what these import in turn."""
    files: set[Path] = set()
    todo = [source]
    while todo:
        for node in ast.walk(ast.parse(todo.pop().read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for module in modules:
                path = ROOT / f"{module.replace('.', '/')}.py"
                if module.split(".")[0] in ("stages", "tattoo_lora") and path.is_file() and path not in files:
                    files.add(path)
                    todo.append(path)
    return frozenset(files)


def code_files(source: Path) -> list[Path]:
    """A Python file and those that it imports and that its results come from; its stage's deps in dvc.yaml hold them.

    What lies in tattoo_lora/ itself, not in a folder of it, checks, shows, measures time or says where files lie: no
    byte of a result comes from there.
    """
    files = {source.resolve(), *imported_files(source.resolve())}
    return sorted(path for path in files if path.parent != ROOT / "tattoo_lora")


@cache
def code_hash(source: Path) -> str:
    """SHA-256 of a Python file, of what it imports and of the versions of the packages that results depend on."""
    code = [(path.relative_to(ROOT).as_posix(), file_sha256(path)) for path in code_files(source)]
    return content_key(code, [metadata.version(package) for package in PACKAGES])


def model_key(model: Model) -> str:
    """A key that tells models apart: a hub id and its commit, or the contents of local files, not their path."""
    parts = [model.id, getattr(model, "vae", None)]
    return content_key(model.revision, [part and (_local_contents(Path(part)) or part) for part in parts])


def _local_contents(path: Path) -> list[tuple[str, str]]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(file.relative_to(path).as_posix(), _contents(file)) for file in files]


def _contents(path: Path) -> str:
    stat = path.stat()
    if stat.st_size < LARGE:
        return file_sha256(path)
    memo, key = Memo("hashes"), content_key(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    kept = memo.read(key, ".txt")
    if kept is None:
        memo.write(key, ".txt", kept := file_sha256(path).encode())
    return kept.decode()


def content_key(*values: Any) -> str:
    """A hash of the values' representations."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:40]


def result_key(source: str, *values: Any, files: Iterable[Path] = ()) -> str:
    """The key of a result of the Python file `source`: its code and imports, the values, the contents of the files."""
    return content_key(code_hash(Path(source)), values, [file_sha256(path) for path in files])
