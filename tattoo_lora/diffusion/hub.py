"""Where a model is looked for, and a helpful line if it is not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tattoo_lora.errors import UserError
from tattoo_lora.params import Model

PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def is_folder_path(model_id: str) -> bool:
    """Whether the id names a local folder: a hub id has the form owner/name and no such folder is here."""
    return Path(model_id).is_dir() or model_id.count("/") != 1 or model_id.startswith((".", "/", "~"))


def id_at_revision(model: Model) -> str:
    """The model in one word: owner/name@commit, or a folder's path."""
    return f"{model.id}@{model.revision}" if model.revision else model.id


def refuse_missing(model: Model, root: Path = Path()) -> None:
    """UserError for a checkpoint file and for a missing local folder, before any weights are read."""
    path = root / model.id
    if path.is_dir():
        return
    if path.suffix in PICKLES:
        raise UserError(
            f"{model.id}: a pickle, which is never read because it may run any code; take the model as a folder in "
            "diffusers' layout, or as .safetensors and convert that"
        )
    if path.is_file():
        try:
            with safe_open(path, "numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{model.id}: a file that is no checkpoint ({error}); a model is a folder in diffusers' layout"
            ) from error
        raise UserError(
            f"{model.id}: a single file, where a folder in diffusers' layout is needed; convert it once with "
            "StableDiffusionPipeline.from_single_file(…).save_pretrained(…)"
        )
    if path.suffix == ".safetensors":
        raise UserError(f"{model.id}: no such checkpoint file, and a folder in diffusers' layout is needed")
    if is_folder_path(model.id):
        raise UserError(f"{model.id}: no such model folder; see the model ids in profiles/*.yaml")


@contextmanager
def finding(model: Model) -> Iterator[None]:
    """Turn whatever a failed from_pretrained raises into a UserError: which model, where, how to get it."""
    refuse_missing(model)
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        if Path(model.id).is_dir():
            raise UserError(f"{model.id}: not a whole model folder ({first})") from error
        at = f" --revision {model.revision}" if model.revision else ""
        raise UserError(
            f"{model.id}: neither on the hub nor in its cache ({first}); fetch it ahead with "
            f"`hf download {model.id}{at}`, or set `profile: embedded`, which needs no network"
        ) from error
