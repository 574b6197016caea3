"""Say what a run will do and what it lacks, before it starts."""

import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from stages.train.plan import effective_batch_size, planned
from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.data.split import fewest_held_out
from tattoo_lora.diffusion.hub import is_local, refuse_missing
from tattoo_lora.errors import UserError
from tattoo_lora.estimates import Setting, TrainingPlan, plan_training
from tattoo_lora.params import Model, Params, Profile, load_params, load_profile
from tattoo_lora.times import read_times

# Only the files that from_pretrained reads: the whole repository of SD 1.5 is ten times as large.
BASE = {
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
}
OTHERS = {"model.safetensors"}
SIZES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "4.3 GB",
    "Salesforce/blip-image-captioning-large": "1.9 GB",
    "openai/clip-vit-base-patch32": "0.6 GB",
}


def hub_models(profile: Profile) -> list[tuple[Model, set[str]]]:
    """Each model that comes from the hub, and its weights."""
    models = [(profile.base, BASE), (profile.captioner, OTHERS), (profile.clip, OTHERS)]
    return [(model, weights) for model, weights in models if not is_local(model.id)]


def download_command(model: Model, weights: set[str]) -> str:
    """The `hf download` command for the files of the model that the stages read."""
    at = f" --revision {model.revision}" if model.revision else ""
    included = [f"--include '{pattern}'" for pattern in ("*.json", "*.txt", *sorted(weights))]
    return f"hf download {model.id}{at} {' '.join(included)}"


def is_cached(model: Model, weights: set[str]) -> bool:
    """Whether the hub's cache on this machine holds the model's files."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(model.id, file, revision=model.revision), str) for file in weights)


def hub_answers() -> bool:
    """Whether the hub can be reached at all."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if proxy := os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        endpoint = urlsplit(proxy)
    try:
        with socket.create_connection((endpoint.hostname, endpoint.port or 443), timeout=5):
            return True
    except OSError:
        return False


def check_models(profile: Profile, captioners: Iterable[Model], root: Path) -> None:
    """Print which models will be fetched. UserError, before any stage runs, for a model that cannot be."""
    for model in (profile.base, profile.captioner, profile.clip, *captioners):
        refuse_missing(model, root)
    models = hub_models(profile)
    if models:
        import torch

        if not torch.accelerator.is_available():
            print(
                "No GPU was found: full size on a CPU takes hours to days (docs/performance.md). The miniature, "
                "`--profile embedded`, takes minutes."
            )
    missing = [model for model in models if not is_cached(*model)]
    if not missing:
        return
    listed = ", ".join(f"{model.id} ({SIZES.get(model.id, 'size unknown')})" for model, _ in missing)
    print(f"Models that are not here yet: {listed}.")
    if hub_answers():
        print("They are fetched when a stage needs them.")
        return
    print("On a machine with a network:\n" + "\n".join(f"    {download_command(*model)}" for model in missing))
    raise UserError(
        f"{len(missing)} of {len(models)} models are not in the hub's cache here and the hub cannot be reached; fetch "
        "them as shown above, or use --profile embedded, which needs no network"
    )


def training_plan(params: Params, profile: Profile, drawings: int) -> TrainingPlan:
    """The plan of each of the trainings in a folder of so many files that may be drawings."""
    learned_from = max(drawings - held_out(params, drawings), 1)
    batch = effective_batch_size(profile.train)
    steps = planned(profile.train, learned_from).steps
    setting = Setting(profile.base, profile.resolution, profile.inference.dtype)
    return plan_training(setting, learned_from, steps, batch, params.train.gradient_checkpointing)


def training_steps(root: Path) -> int:
    """The steps of each training under `root`, by its params and its preprocessed drawings."""
    params = load_params(root)
    profile = load_profile(params.profile, root)
    drawings = read_drawings(root / "data/processed" / params.dataset / "drawings.csv")
    return planned(profile.train, sum(drawing.split == "train" for drawing in drawings)).steps


def held_out(params: Params, drawings: int) -> int:
    """About how many of so many drawings are held out: each one's content decides."""
    share = params.preprocess.val_share + params.preprocess.test_share
    return max(round(drawings * share), fewest_held_out(drawings))


def plan(params: Params, profile: Profile, drawings: int) -> str:
    """The plan of a run: drawings, held out, epochs, steps, time, memory; and that the miniature is a demonstration."""
    times, kept_back = read_times(), held_out(params, drawings)
    lines = [
        f"{params.dataset}: {drawings} files that may be drawings, about {kept_back} of them held out.",
        f"{len(params.variants)} adapters, each {training_plan(params, profile, drawings)}.",
    ]
    if "report" in times:  # the last stage: until it has run, these times are those of a part
        lines.append(f"The last runs of all stages took {sum(times.values()) / 60:.0f} minutes.")
    if is_local(profile.base.id):
        if "report" not in times:
            lines.append("All stages of the sample take two to six minutes on two cores; large scans take longer.")
        lines.append("The miniature models are a demonstration; for tattoos: python main.py --profile sd15, on a GPU.")
    return "\n".join(lines)


def results(findings: Path) -> str:
    """The headline and the aligned scores of metrics/findings.json, the best ones marked."""
    from stages.report.findings import SCORES  # pandas takes a second

    findings = json.loads(findings.read_text(encoding="utf-8"))
    scores = list(findings["better"])
    best = {
        score: (min if findings["better"][score] == "lower" else max)(
            (values[score] for values in findings["scores"].values() if values[score] is not None), default=None
        )
        for score in scores
    }

    def cell(value: float | None, score: str) -> str:
        shown = "-" if value is None else SCORES[score].show(value) if score in SCORES else f"{value:g}"
        return shown + ("*" if value is not None and value == best[score] else " ")

    rows = [["", *(f"{score} " for score in scores)]]
    rows += [[name, *(cell(values[score], score) for score in scores)] for name, values in findings["scores"].items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lower = ", ".join(score for score in scores if findings["better"][score] == "lower")
    note = f"  * best of its column; lower is better: {lower}" if lower else ""
    return "\n".join([findings["headline"], "", *(f"  {line.rstrip()}" for line in table), note])
