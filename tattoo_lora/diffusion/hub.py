"""Where a model is looked for, a helpful line if it is not there, and what decides how a CPU computes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tattoo_lora.diffusion.checkpoint_file import is_checkpoint, read_shapes, refuse_others
from tattoo_lora.errors import UserError
from tattoo_lora.params import BaseModel, Model


def is_local(model_id: str) -> bool:
    """Whether the id names a folder or a file: a hub id has the form owner/name, and nothing of that name is here."""
    return Path(model_id).exists() or is_checkpoint(model_id) or model_id.count("/") != 1 or model_id[0] in "./~"


def is_full_size(model: Model) -> bool:
    """Whether the model is one of the hub, or local with as many weights: more than half a gigabyte, no miniature."""
    path = Path(model.id)
    if not path.exists():
        return True
    files = path.rglob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) > 5e8


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; emulated, a training step took 33 s instead of 0.6."""
    import torch  # takes a second, which a look at ids has no need of

    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))  # those with AMX have it too


def id_at_revision(model: Model) -> str:
    """The model in one word: owner/name@commit, or a path."""
    return f"{model.id}@{model.revision}" if model.revision else model.id


def other_vae(base: Model) -> Model | None:
    """The VAE that takes the place of the base model's own, if one is named."""
    if not isinstance(base, BaseModel) or base.vae is None:
        return None
    vae_id, _, revision = base.vae.partition("@")
    return Model(vae_id, revision or None)


def refuse_missing(model: Model, root: Path = Path()) -> None:
    """UserError, before any weights are read, for a local model that is missing or of a kind that cannot be used."""
    path, vae = root / model.id, other_vae(model)
    if path.is_file() or is_checkpoint(model.id):
        refuse_others(model.id, root, needs_vae=vae is None)
        if not isinstance(model, BaseModel):
            raise UserError(f"{model.id}: a checkpoint of Stable Diffusion, where a folder or a hub id is needed")
    elif is_local(model.id) and not path.is_dir():
        raise UserError(f"{model.id}: no such model folder; see the model ids in profiles/*.yaml")
    if vae is not None and is_checkpoint(vae.id):
        if not any(key.endswith("decoder.conv_in.weight") for key in read_shapes(root / vae.id)):
            raise UserError(f"{vae.id}: no VAE, though base.vae names it")
    elif vae is not None:
        refuse_missing(vae, root)


@contextmanager
def finding(model: Model) -> Iterator[None]:
    """Turn whatever a failed from_pretrained raises into a UserError: which model, where, how to get it."""
    refuse_missing(model)
    try:
        yield
    except (OSError, ValueError, NotImplementedError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        if isinstance(error, NotImplementedError):  # torch's, of parameters that the file gave no numbers
            first = "weights are missing"
        if Path(model.id).is_dir():
            raise UserError(f"{model.id}: not a whole model folder ({first})") from error
        if is_checkpoint(model.id):
            raise UserError(f"{model.id}: not a whole checkpoint of Stable Diffusion 1.x ({first})") from error
        fetch = f"hf download {model.id}" + (f" --revision {model.revision}" if model.revision else "")
        if not isinstance(error, OSError):  # those say that there is no file
            again = f"fetch it again with `{fetch} --force-download`"
            raise UserError(f"{model.id}: not a whole model in the hub's cache ({first}); {again}") from error
        raise UserError(
            f"{model.id}: neither on the hub nor in its cache ({first}); fetch it ahead with `{fetch}`, or set "
            "`profile: embedded`, which needs no network"
        ) from error
