"""Print as JSON what has changed for each stage, also while `dvc repro` runs.

    python -m app.stage_states

`dvc status` takes DVC's locks: it refuses to answer while a stage runs, and a `dvc repro` that starts while it looks
has to wait for it. This takes none.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from app.checks import writable
from app.jobs import when_parent_ends
from tattoo_lora.errors import UserError, one_line_errors


def changed_stages() -> list[dict]:
    """name, outs, upstream (stages), changed (what differs from dvc.lock) and has_outs of each, in dvc.yaml's order."""
    with Repo() as repo:
        graph = repo.index.graph
        stages = []
        for stage in repo.index.stages:
            deps, outs, command = stage.changed_entries()
            paths = [out.def_path for out in stage.outs]
            stages.append(
                {
                    "name": stage.addressing,
                    "outs": paths,
                    "upstream": [other.addressing for other in graph.successors(stage)],
                    "changed": [*deps, *outs, *([command] if command else [])],
                    "has_outs": any(Path(path).exists() for path in paths),
                }
            )
        return stages


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m app.stage_states", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    when_parent_ends(lambda: os._exit(1))
    with one_line_errors():
        writable(Path(".dvc/tmp"), "DVC's folder")
        try:
            json.dump(changed_stages(), sys.stdout, indent=2)
        except DvcException as error:
            raise UserError(f"dvc.yaml: {error}") from None


if __name__ == "__main__":
    main()
