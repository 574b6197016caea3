"""Make an adapter ready to hand on: weights for every program, a model card, pictures, and who drew what it learned.

    python main.py release --variant blip_plus
    python main.py release --variant blip_plus --license cc-by-4.0 --out ~/releases/blip_plus
    python main.py release --variant blip_plus --upload your-name/tattoo-blip-plus

Writes runs/release/<variant>/. The card is written from the run alone: a stale or uncommitted run is refused. --upload
puts the folder on the Hugging Face hub as a private repository, with the token of `hf auth login` or HF_TOKEN.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import yaml

from app.checks import check_repository, git, inside, writable
from app.generate import adapter_path
from tattoo_lora.data.captions import split_captions, with_trigger
from tattoo_lora.data.manifest import ManifestRow, read_manifest
from tattoo_lora.data.split import file_sha256
from tattoo_lora.data.tables import write_rows
from tattoo_lora.diffusion.checkpoint_file import is_checkpoint
from tattoo_lora.diffusion.hub import id_at_revision, is_local
from tattoo_lora.errors import UserError
from tattoo_lora.params import Params, Profile, load_params, load_profile

OUT = Path("runs/release")
# What the results depend on, and those results that Git holds: the card names a commit that has them.
IN_GIT = ("params.yaml", "profiles", "dvc.yaml", "dvc.lock", "stages", "tattoo_lora", "metrics", "plots")
# Licences that the hub knows, https://huggingface.co/docs/hub/repositories-licenses, as drawings come with them.
HUB_LICENSES = set(
    "cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-4.0 apache-2.0 mit".split()
)
UNKNOWN = "licence unknown"
WRITTEN = "release.json"  # lists what a release wrote, with each file's SHA-256: nothing else is ever deleted
MADE_BY = "files of this tattoo-lora release"


# What the manifest says of a drawing and the person who shares the adapter has to know.
CREDITS = ("source", "split", "sha256", "license", "author", "url")


def check_results(root: Path) -> None:
    """UserError if the results are stale, or if what they were made from is not committed."""
    check_repository(root)
    check_lock(root / "dvc.lock")
    status = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], cwd=root, capture_output=True, text=True)
    if any(words in status.stderr for words in ("Unable to acquire lock", "is busy")):
        raise UserError("DVC is at work in this folder, `dvc repro` perhaps; release when it has ended")
    if status.returncode != 0:
        raise UserError(f"`dvc status` failed: {' '.join(status.stderr.split()).removeprefix('ERROR: ')}")
    if stale := sorted(json.loads(status.stdout)):
        raise UserError(
            f"stale or missing: {', '.join(stale[:3])} ({len(stale)} in all); "
            "run `python main.py`, or `dvc pull` where a remote has the results"
        )
    changed = git("status", "--porcelain", "--", *IN_GIT, root=root).splitlines()
    if changed:
        raise UserError(
            f"not committed: {changed[0][3:]} ({len(changed)} in all); commit, so that the card can name the run"
        )


def check_lock(lock: Path) -> None:
    """UserError if the file may not be read, or holds both sides of a merge: DVC's own words for these do not help."""
    try:
        text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    except PermissionError as error:
        raise UserError(f"{lock.name}: may not be read ({error.strerror}); change its permissions") from None
    if "\n<<<<<<< " in text:
        raise UserError("dvc.lock: holds both sides of a merge; `git checkout --ours dvc.lock`, then `python main.py`")


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def hub_license(drawings: list[ManifestRow]) -> str:
    """The hub's name of the licence that all drawings share; `other` for several, `unknown` if one has none."""
    licenses = {drawing.license for drawing in drawings}
    if "" in licenses:
        return "unknown"
    name = "-".join(licenses.pop().lower().split()) if len(licenses) == 1 else "other"
    return name if name in HUB_LICENSES else "other"


def common_ending(captions: list[str]) -> str:
    """The phrases that all captions end in, which evoke the style; empty if there are none."""
    phrases = [caption.split(", ") for caption in captions]
    length = 0
    while all(len(phrase) > length for phrase in phrases) and len({phrase[-1 - length] for phrase in phrases}) == 1:
        length += 1
    return ", ".join(phrases[0][len(phrases[0]) - length :])


def example_prompts(root: Path, variant: str) -> list[tuple[str, Path]]:
    """Each prompt of the evaluation and its first picture."""
    folder = root / "runs/evaluation" / variant
    first: dict[str, Path] = {}
    for row in read_table(folder / "pictures.csv"):
        first.setdefault(row["prompt"], folder / row["file"])
    return list(first.items())


def front_matter(
    title: str, prompts: list[tuple[str, str]], metrics: dict, params: Params, profile: Profile, license: str
) -> str:
    """The card's YAML, https://huggingface.co/docs/hub/model-cards; `prompts` with their pictures' paths."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-to-image",
            dataset_type=params.dataset,
            dataset_name=f"{params.dataset}, held-out drawings and fixed prompts",
            metric_type=name,
            metric_value=value,
        )
        for name, value in metrics.items()
        if isinstance(value, float)
    ]
    data = ModelCardData(
        model_name=title,
        base_model=None if is_local(profile.base.id) else profile.base.id,
        library_name="diffusers",
        license=license,
        pipeline_tag="text-to-image",
        tags=["lora", "stable-diffusion", "tattoo", "line-art", "template:sd-lora"],
        widget=[{"text": prompt, "output": {"url": path}} for prompt, path in prompts],
        eval_results=results,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def how_to_use(profile: Profile, weights: Path, kohya: Path | None, prompt: str, location: str) -> str:
    """How to draw with the adapter in diffusers and, if kohya's file is there, in ComfyUI and A1111."""
    revision = f', revision="{profile.base.revision}"' if profile.base.revision else ""
    load = "from_single_file" if is_checkpoint(profile.base.id) else "from_pretrained"
    text = (
        f"diffusers:\n\n```python\nimport torch\nfrom diffusers import StableDiffusionPipeline\n\n"
        f"on_gpu = torch.cuda.is_available()\npipeline = StableDiffusionPipeline.{load}(\n"
        f'    "{profile.base.id}"{revision}, torch_dtype=torch.float16 if on_gpu else torch.float32\n)\n'
        f'pipeline.load_lora_weights("{location}", weight_name="{weights.name}")\n'
        f'pipeline.to("cuda" if on_gpu else "cpu")\n'
        f'picture = pipeline(\n    "{prompt}",\n'
        f"    num_inference_steps={profile.sampling.sampler_steps},\n"
        f"    guidance_scale={profile.sampling.guidance_scale:g},\n"
        f"    height={profile.resolution},\n    width={profile.resolution},\n).images[0]\n"
        'picture.save("picture.png")\n```\n'
    )
    if is_local(profile.base.id) and not is_checkpoint(profile.base.id):
        text += (
            f"\n`{profile.base.id}` is a folder of the project that made this adapter; ComfyUI and A1111 want the "
            "same model as one checkpoint file.\n"
        )
    if kohya is None:
        return text + "\nDoRA: there is no file for ComfyUI and A1111, whose readers disagree about it.\n"
    return text + (
        f"\nComfyUI: `{kohya.name}` into `models/loras`, and a *Load LoRA* node behind the checkpoint of the base "
        f"model, both strengths 1.\n\nA1111: `{kohya.name}` into `models/Lora`, and `<lora:{kohya.stem}:1>` in the "
        "prompt, with the checkpoint of the base model.\n"
    )


def credits_text(drawings: list[ManifestRow]) -> str:
    """The number of drawings by author and by licence."""
    counts = Counter(drawing.license or UNKNOWN for drawing in drawings)
    held_out = sum(drawing.split != "train" for drawing in drawings)
    lines = [f"{len(drawings)} drawings, {held_out} of them held out:\n", "| licence | drawings |", "|---|---:|"]
    lines += [f"| {license} | {count} |" for license, count in counts.most_common()]
    authors = Counter(drawing.author for drawing in drawings if drawing.author)
    unnamed = len(drawings) - authors.total()
    by = ", ".join(f"{author} ({count})" for author, count in sorted(authors.items()))
    lines.append(f"\nBy {by or 'authors unknown'}{f', and {unnamed} by authors unknown' if by and unnamed else ''}.")
    lines.append("Each drawing's author, licence and address: `credits.csv`.")
    return "\n".join(lines) + "\n"


def licence_text(license: str) -> str:
    """What the card's licence field says and what it does not say."""
    if license == "unknown":
        return "Unknown, because that of a drawing is: ask before you use or share it."
    return f"`{license}`; the base model's own licence holds for what is drawn with both."


def model_card(
    root: Path,
    variant: str,
    weights: Path,
    kohya: Path | None,
    license: str,
    drawings: list[ManifestRow],
    location: str,
) -> str:
    """The folder's README.md. `weights`, `kohya` and the pictures lie in it, under the names that `release` gives."""
    from safetensors import safe_open

    params = load_params(root)
    profile = load_profile(params.profile, root)
    metrics = json.loads((root / f"metrics/{variant}.json").read_text(encoding="utf-8"))
    with safe_open(weights, framework="numpy") as adapter:
        header = adapter.metadata()
    captions = [
        caption
        for path in sorted((root / f"data/processed/{params.dataset}/captions_{variant}").glob("*.txt"))
        for caption in split_captions(path.read_text(encoding="utf-8"))
    ]
    trigger, ending = params.variant(variant).trigger, common_ending(captions)
    examples = [(prompt, f"images/{i:02}.png") for i, (prompt, _) in enumerate(example_prompts(root, variant))]
    motif = examples[0][0].partition(", ")[0]
    prompt = with_trigger(trigger, f"{motif}, {ending}" if ending else examples[0][0])
    title = f"tattoo-lora {variant}"
    base = id_at_revision(profile.base)
    tables = (root / "plots/comparison.md").read_text(encoding="utf-8").strip()
    calls = " and ".join([f"`{trigger}` first"] * bool(trigger) + [f"`{ending}` last"] * bool(ending))
    files = [f"| `{path.name}` | `{file_sha256(path)}` |" for path in (weights, kohya) if path]
    return f"""{front_matter(title, examples, metrics, params, profile, license)}
# {title}

A LoRA adapter of rank {params.train.rank} that draws tattoo line art with `{base}`, {profile.resolution} px. It learned
{header["ss_num_train_images"]} drawings, each with a caption such as *{with_trigger(trigger, captions[0])}*.

![Pictures of the fixed prompts, one a row, with {len(params.evaluate.seeds)} seeds.](samples.png)

## Use

{f"In the prompt: {calls}." if calls else "It needs no trigger words."}

{how_to_use(profile, weights, kohya, prompt, location)}
## Figures

`{variant}` against the base model and the other adapters of the same run, which differ in their captions only.
`test_loss` is the error in denoising drawings that no training read; `clip_score` says how well
pictures fit their prompts.

{tables}

![The same prompts and seeds: the base model and each adapter.](comparison.png)

## Limits

{metrics["copies"]:.0%} of the pictures measured were too near to a training drawing: look before you hand one on. Other
than tattoo line art, and motifs far from the drawings it learned, were not measured.

## Drawings

{credits_text(drawings)}
## Licence

{licence_text(license)}

## Where it comes from

| | |
|---|---|
| Git commit that holds code, params and results | `{header["ss_git_commit"]}` |
| dataset | `{params.dataset}`, SHA-256 over its drawings `{header["ss_dataset_hash"]}` |
| seed | {header["ss_seed"]} |

| file | SHA-256 |
|---|---|
{chr(10).join(files)}

```yaml
{settings_yaml(params, profile, variant)}```
"""


def settings_yaml(params: Params, profile: Profile, variant: str) -> str:
    """All settings of the training, as they stand in params.yaml and the profile."""
    settings = {"train": asdict(params.train), f"variants.{variant}": asdict(params.variant(variant))}
    settings[f"profiles/{params.profile}.yaml"] = asdict(profile)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=110)


def earlier_files(out: Path) -> list[Path]:
    """What an earlier release wrote into the folder and nobody changed since.

    UserError for a folder that holds something else, or a file that was changed.
    """
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return []
    try:
        hashes = json.loads((out / WRITTEN).read_text(encoding="utf-8"))[MADE_BY]
        files = {out / inside(".", name): sha256 for name, sha256 in hashes.items()}
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{out}: holds something else than a release; give --out a new folder") from None
    for path, sha256 in files.items():
        if path.is_file() and file_sha256(path) != sha256:
            raise UserError(f"{path}: was changed after it was released; move it away, or give --out a new folder")
    return [out / WRITTEN, *(path for path in files if path.is_file())]


def copy_with(fields: dict[str, str], source: Path, target: Path) -> Path:
    """Copy a .safetensors file and add fields to its header; the tensors' bytes stay as they are."""
    raw = source.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = dict(sorted((header.get("__metadata__", {}) | fields).items()))
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    target.write_bytes(len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :])
    return target


def release(root: Path, variant: str, out: Path, license: str | None = None, repo_id: str | None = None) -> str:
    """Write the folder `out` anew, all or nothing, with the licence in its card. Other people's files in it stay.

    The card's example loads `repo_id` from the hub, or the folder. UserError for an unknown or untrained variant,
    results that are stale or not committed, or a folder with other files.
    """
    params = load_params(root)
    params.variant(variant)
    earlier = earlier_files(out)
    check_results(root)
    adapter = root / adapter_path(variant)
    manifest = read_manifest(root / f"data/processed/{params.dataset}/manifest.csv")
    drawings = [row for row in manifest if row.status == "kept"]
    license = license or hub_license(drawings)
    writable(out.parent)
    folder = out.relative_to(root).as_posix() if out.is_relative_to(root) else out.name  # no path of this machine
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        made = Path(scratch)
        fill(made, root, variant, adapter, drawings, license, repo_id or folder)
        files = sorted(path for path in made.rglob("*") if path.is_file())
        hashes = {path.relative_to(made).as_posix(): file_sha256(path) for path in files}
        (made / WRITTEN).write_text(json.dumps({MADE_BY: hashes}, indent=2) + "\n", encoding="utf-8", newline="\n")
        if theirs := [name for name in hashes if (out / name).exists() and out / name not in earlier]:
            raise UserError(f"{out / theirs[0]}: no release wrote this file; move it away, or give --out a new folder")
        for path in earlier:
            path.unlink()
        for name in [*hashes, WRITTEN]:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(made / name, out / name)
    return license


def fill(
    out: Path, root: Path, variant: str, adapter: Path, drawings: list[ManifestRow], license: str, location: str
) -> None:
    """All files of a release; the weights with the commit that holds what they came from."""
    (out / "images").mkdir()
    commit = {"ss_git_commit": git("rev-parse", "HEAD", root=root)}
    weights = copy_with(commit, adapter, out / f"tattoo-lora-{variant}.safetensors")
    kohya = adapter.with_suffix(".kohya.safetensors")
    kohya = copy_with(commit, kohya, out / f"tattoo-lora-{variant}.kohya.safetensors") if kohya.is_file() else None
    shutil.copyfile(root / f"plots/samples/{variant}.png", out / "samples.png")
    shutil.copyfile(root / "plots/comparison.png", out / "comparison.png")
    for i, (_, picture) in enumerate(example_prompts(root, variant)):
        shutil.copyfile(picture, out / f"images/{i:02}.png")
    write_rows(out / "credits.csv", [{column: getattr(drawing, column) for column in CREDITS} for drawing in drawings])
    card = model_card(root, variant, weights, kohya, license, drawings, location)
    (out / "README.md").write_text(card, encoding="utf-8", newline="\n")


def upload(folder: Path, repo_id: str) -> str:
    """Put the folder on the hub, in a private repository; its address. UserError for no token or a hub that refuses."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError, HTTPError

    if get_token() is None:
        raise UserError("no token for the hub; run `hf auth login`, or set HF_TOKEN, then --upload again")
    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=True, exist_ok=True)
        # Files that only an earlier release had are deleted there too; other files in the folder are not uploaded.
        files = [path.relative_to(folder).as_posix() for path in earlier_files(folder)]
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="Release the adapter",
            allow_patterns=files,
            delete_patterns="*",
        )
    except HFValidationError:
        raise UserError(f"--upload {repo_id}: write it as owner/name, of letters, digits, `-`, `_` and `.`") from None
    # ValueError: the hub does not take the card; RuntimeError: one of the files did not arrive.
    except (HTTPError, ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"--upload {repo_id}: the hub refused or did not answer: {said}") from None
    return str(address)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", required=True, help="which adapter: runs/lora/<variant>/best.safetensors")
    parser.add_argument("--out", type=Path, help=f"folder, written anew; default: {OUT}/<variant>")
    parser.add_argument("--license", help="the card's licence, as the hub writes it; default: that of all the drawings")
    parser.add_argument("--upload", metavar="OWNER/NAME", help="put it on the Hugging Face hub too, as private")


def run(args: argparse.Namespace, root: Path) -> None:
    out = args.out.expanduser() if args.out else root / OUT / args.variant
    license = release(root, args.variant, out, args.license, args.upload)
    print(out)
    if license == "unknown":
        print("licence unknown: not every drawing has one in the manifest; the card says so", file=sys.stderr)
    if args.upload:
        print(upload(out, args.upload))
