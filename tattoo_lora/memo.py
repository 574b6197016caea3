"""Results kept by content, outside of DVC's outputs, which are removed before a rerun: only what is new is computed.

They lie under .scratch/memo/ in the project's folder, also for experiments in a temporary one. Deleting them costs
nothing but time.
"""

import os
from pathlib import Path

from tattoo_lora.files import replace_file

ROOT = Path(os.environ.get("DVC_ROOT", "."))


class Memo:
    """Files by key. Any number of processes may read and write at once; a kill leaves no half of a file."""

    def __init__(self, name: str) -> None:
        self.folder = ROOT / ".scratch/memo" / name

    def path(self, key: str, suffix: str) -> Path:
        """Where the file with that key lies or would lie."""
        return self.folder / key[:2] / (key + suffix)

    def read(self, key: str, suffix: str) -> bytes | None:
        """The content; None if there is none."""
        try:
            return self.path(key, suffix).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, key: str, suffix: str, content: bytes) -> None:
        """Keep the content."""
        path = self.path(key, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            partial.write_bytes(content)
