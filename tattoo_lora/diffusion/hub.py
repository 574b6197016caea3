"""Where a model is looked for, and one line that helps where it is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tattoo_lora.errors import UserError


def is_folder_path(model: str) -> bool:
    """Whether the id names a local folder: a hub id has the form owner/name and no such folder is here."""
    return Path(model).is_dir() or model.count("/") != 1 or model.startswith((".", "/", "~"))


@contextmanager
def finding(model: str, revision: str | None) -> Iterator[None]:
    """Turn whatever a failed from_pretrained raises into a UserError: which model, where, how to get it."""
    if is_folder_path(model) and not Path(model).is_dir():
        raise UserError(f"{model}: no such model folder; see the model ids in profiles/*.yaml")
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        if Path(model).is_dir():
            raise UserError(f"{model}: not a whole model folder ({first})") from error
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{model}: neither on the hub nor in its cache ({first}); fetch it ahead with "
            f"`hf download {model}{at}`, or set `profile: embedded`, which needs no network"
        ) from error
