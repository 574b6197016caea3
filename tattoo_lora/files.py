"""Results are replaced, never written into: DVC may have linked them to its cache, which a write would change."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to. It takes the place of `path` when the block ends, and goes if that fails.

    Its name ends in .partial, so that what a kill leaves behind is no caption and no picture to anybody.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
