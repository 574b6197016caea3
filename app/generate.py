"""Draw pictures from prompts with the base model and an adapter.

    python -m app.generate "an owl, minimal line-art tattoo, stencil, high-contrast" --variant blip_plus --n 4
    python -m app.generate --prompts prompts.txt --lora ~/Downloads/flash.safetensors --strength 0.8
    python -m app.generate "a rose" --variant blip --lora ink.safetensors:0.7 dots.safetensors:0.4
    python -m app.generate "a rose" --variant blip --stencil-mm 90
    python -m app.generate "a rose" --variant blip --sketch my-rose.jpg --change 0.6 --n 4
    python -m app.generate --again runs/samples/adhoc/an-owl_7.png

Adapters add up, each with its strength; without --variant and --lora the base model draws. A prompts file has one
prompt a line. Every PNG holds all of its settings; --again draws the same picture from them, on the same machine the
same bytes.
"""

import argparse
import json
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app import OUT
from app.checks import check, writable
from app.sketch import draw_over, sketch_sha256
from tattoo_lora.data.split import file_sha256
from tattoo_lora.data.texts import read_text
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.params import SAMPLER_STEPS, SEEDS, BaseModel, Profile, Range, load_params, load_profile

CHUNK = "tattoo-lora"  # the PNG text chunk that holds the settings as JSON
LIMITS = {  # each field of Settings with its option and the allowed values
    "seed": ("--seed", SEEDS),
    "steps": ("--steps", SAMPLER_STEPS),
    "guidance_scale": ("--guidance", Range(0, 100)),
    "width": ("--size, width", Range(8, 4096)),
    "height": ("--size, height", Range(8, 4096)),
    "change": ("--change", Range(0.05, 1)),
}
STRENGTH = Range(-10, 10)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)  # of a strip
PICTURES = Range(1, 10_000)  # for each prompt


@dataclass(frozen=True)
class Adapter:
    """An adapter's file, its hex SHA-256 and how much it counts."""

    path: str
    sha256: str
    strength: float = 1.0


@dataclass(frozen=True)
class Settings:
    """All that one picture depends on, besides the machine and the packages' versions."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    width: int
    height: int
    base_model: str
    base_revision: str | None
    dtype: str
    adapters: tuple[Adapter, ...] = ()
    base_vae: str | None = None
    sketch: str | None = None
    sketch_sha256: str | None = None
    change: float = 1.0  # how much of the sketch is drawn anew, 0 to 1


def file_name(settings: Settings) -> str:
    """The prompt's first words and the seed: an-owl-minimal-line-art_7.png."""
    words = re.findall(r"[^\W_]+", settings.prompt.lower())
    return f"{'-'.join(words)[:40].rstrip('-') or 'picture'}_{settings.seed}.png"


def read_settings(path: Path) -> Settings:
    """The settings that are stored in a picture of this program; UserError if there are none."""
    from PIL import Image

    try:
        with path.open("rb") as file, Image.open(file) as image:
            text = getattr(image, "text", {}).get(CHUNK)
    except OSError as error:
        raise UserError(f"{path}: no picture ({error})") from None
    if text is None:
        raise UserError(f"{path}: holds no settings; was it made by app.generate, and not edited since?")
    try:
        return checked(from_stored(json.loads(text)))
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: its settings are of another version, or were edited ({error})") from None


def from_stored(values: dict) -> Settings:
    """The settings of a picture's JSON; earlier ones name one adapter at most, as lora, lora_sha256 and strength."""
    if "lora" in values:
        path, digest, strength = (values.pop(name) for name in ("lora", "lora_sha256", "strength"))
        values["adapters"] = [] if path is None else [asdict(Adapter(path, digest, strength))]
    adapters = tuple(Adapter(**adapter) for adapter in values.pop("adapters"))
    return Settings(**values, adapters=adapters)


def checked(settings: Settings) -> Settings:
    """The settings; UserError if a number is out of bounds."""
    for adapter in settings.adapters:
        check(f"{adapter.path}: strength", adapter.strength, STRENGTH)
    for name, (option, allowed) in LIMITS.items():
        check(option, getattr(settings, name), allowed)
    check_size(settings, 8)
    if settings.sketch and int(settings.steps * settings.change) < 1:
        raise UserError(f"--change {settings.change:g}: of {settings.steps} steps not one is left; give more of either")
    return settings


def check_size(settings: Settings, factor: int) -> None:
    """UserError if a side is not whole latents, which are `factor` px wide: 8 in Stable Diffusion."""
    if settings.width % factor or settings.height % factor:
        raise UserError(f"--size {settings.width}x{settings.height}: both must be multiples of {factor}")


def check_unchanged(settings: Settings, picture: Path) -> None:
    """UserError if the adapter or the sketch that drew the picture is gone or another one."""
    for adapter in settings.adapters:
        if adapter_sha256(Path(adapter.path)) != adapter.sha256:
            raise UserError(f"{adapter.path}: is another adapter than the one that drew {picture}")
    if settings.sketch is not None and sketch_sha256(Path(settings.sketch)) != settings.sketch_sha256:
        raise UserError(f"{settings.sketch}: is another sketch than the one that {picture} was drawn from")


def adapter_path(variant: str) -> Path:
    """Where train writes a variant's best adapter."""
    return Path(f"runs/lora/{variant}/best.safetensors")


def adapter_sha256(path: Path) -> str:
    """Hex SHA-256 of the adapter; UserError if there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such adapter; run `dvc repro train`, or give --lora a .safetensors file")
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def chosen_adapter(path: Path, strength: float = 1.0) -> Adapter:
    """The file as an adapter; UserError if there is none."""
    return Adapter(str(path), adapter_sha256(path), strength)


def split_strength(text: str) -> tuple[str, float]:
    """A name and the strength behind its last colon, 1 if no number is there: a.safetensors:0.7, C:\\a.safetensors."""
    name, _, number = text.rpartition(":")
    try:
        return (name, float(number)) if name else (text, 1.0)
    except ValueError:
        return text, 1.0


def with_strength(settings: Settings, factor: float) -> Settings:
    """The same picture with its adapters so many times as strong."""
    adapters = tuple(replace(adapter, strength=adapter.strength * factor) for adapter in settings.adapters)
    return checked(replace(settings, adapters=adapters))


def read_prompts(path: Path) -> list[str]:
    """The lines of the file that are not empty; UserError if there are none."""
    try:
        prompts = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not prompts:
        raise UserError(f"{path}: no prompts; write one a line")
    return prompts


class Studio:
    """The base model, kept loaded between pictures.

    One picture at a time, so that it does not depend on the others: the same settings give the same bytes. For one
    thread at a time: whoever shares it holds `lock` while drawing.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pipeline, self.base, self.files, self.adapters = None, None, None, None
        self.texts, self.embeds = None, None

    def draw(self, settings: Settings, profile: Profile):
        """A PIL image. The model and the adapters are loaded only if they differ from those of the last picture."""
        from tattoo_lora.diffusion.models import pick_device, place
        from tattoo_lora.diffusion.prompts import encode_prompts

        base = (settings.base_model, settings.base_revision, settings.base_vae, settings.dtype)
        if base != self.base:
            self.pipeline = self.base = self.files = None  # one model at a time in memory
            self.pipeline = load_base(settings)
            place(self.pipeline, pick_device(), profile.sampling.low_memory)
            self.base = base
        check_size(settings, self.pipeline.vae_scale_factor)
        files = [(adapter.path, adapter.sha256) for adapter in settings.adapters]
        if files != self.files:
            self.files = self.adapters = None  # if loading fails, nothing half-loaded is used
            self.pipeline.unload_lora_weights()
            load_adapters(self.pipeline, settings)
            self.files = files
        if settings.adapters != self.adapters:
            self.texts = None  # an adapter may change the text encoder too
            set_strengths(self.pipeline, settings)
            self.adapters = settings.adapters
        texts = [settings.prompt, settings.negative_prompt]
        if texts != self.texts:
            self.texts = None
            tokenizer, text_encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
            self.embeds = encode_prompts(tokenizer, text_encoder, texts).split(1)
            self.texts = texts
        return draw_one(self.pipeline, settings, *self.embeds)


def draw(settings: list[Settings], profile: Profile) -> Iterator:
    """A PIL image for each of the settings."""
    studio = Studio()
    for one in settings:
        yield studio.draw(one, profile)


def load_base(settings: Settings):
    """The pipeline of the base model that the settings name, on the CPU."""
    from tattoo_lora.diffusion.sampling import load_pipeline

    return load_pipeline(BaseModel(settings.base_model, settings.base_revision, settings.base_vae), settings.dtype)


def load_adapters(pipeline, settings: Settings) -> None:
    """Load the settings' adapters into a pipeline that has none.

    UserError if a file is no adapter or was made for another model.
    """
    from tattoo_lora.diffusion.lora import load_lora

    load_lora(pipeline, *(Path(adapter.path) for adapter in settings.adapters))


def set_strengths(pipeline, settings: Settings) -> None:
    """Let all loaded adapters count, each with its strength."""
    if settings.adapters:
        names = [f"{number}" for number in range(len(settings.adapters))]
        pipeline.set_adapters(names, [adapter.strength for adapter in settings.adapters])


def draw_one(pipeline, settings: Settings, prompt_embeds, negative_prompt_embeds):
    """A PIL image; embeddings (1, T, D). UserError if it has a single colour."""
    from tattoo_lora.diffusion.sampling import draw_batch, refuse_blank

    if settings.sketch is not None:
        image = draw_over(pipeline, settings, prompt_embeds, negative_prompt_embeds)
    else:
        steps, guidance_scale, size = settings.steps, settings.guidance_scale, (settings.width, settings.height)
        embeds = (prompt_embeds, negative_prompt_embeds)
        [image] = draw_batch(pipeline, *embeds, [settings.seed], steps, guidance_scale, size)
    refuse_blank(image, f"{settings.prompt!r} with {drawn_with(settings)}")
    return image


def drawn_with(settings: Settings) -> str:
    """The adapters' files, or the base model's id."""
    return ", ".join(adapter.path for adapter in settings.adapters) or settings.base_model


def save(image, settings: Settings, folder: Path) -> Path:
    """Write the PNG with its settings under a name that no other picture has."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_itxt(CHUNK, json.dumps(stored(settings), ensure_ascii=False))
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / file_name(settings), 2
    while path.exists() and not holds(path, settings):
        path = folder / file_name(settings).replace(".png", f"-{number}.png")
        number += 1
    with replace_file(path) as partial:
        image.save(partial, "PNG", pnginfo=text)
    return path


def stored(settings: Settings) -> dict:
    """What a picture holds: a sketch's settings only if there is one, so that the others stay the bytes they were."""
    without = () if settings.sketch is not None else ("sketch", "sketch_sha256", "change")
    return {name: value for name, value in asdict(settings).items() if name not in without}


def holds(path: Path, settings: Settings) -> bool:
    """Whether the picture at that path has the same settings; then it may be replaced."""
    try:
        return read_settings(path) == settings
    except UserError:
        return False


def settings_for(
    args: argparse.Namespace, profile: Profile, adapters: list[Adapter], prompts: list[str], seeds: Iterable[int]
) -> list[Settings]:
    """The settings that the options of app.generate and app.compare ask for: each prompt with each seed."""
    check("--strength", args.strength, STRENGTH)  # checked even if no adapter uses it
    check("--change", args.change, LIMITS["change"][1])
    width, height = args.size or (profile.resolution, profile.resolution)
    shared = {
        "negative_prompt": args.negative,
        "steps": profile.sampling.sampler_steps if args.steps is None else args.steps,
        "guidance_scale": profile.sampling.guidance_scale if args.guidance is None else args.guidance,
        "width": width,
        "height": height,
        "base_model": profile.base.id,
        "base_revision": profile.base.revision,
        "base_vae": profile.base.vae,
        "dtype": profile.inference.dtype,
        "adapters": tuple(adapters),
        "sketch": None if args.sketch is None else str(args.sketch),
        "sketch_sha256": None if args.sketch is None else sketch_sha256(args.sketch),
        "change": args.change if args.sketch is not None else 1.0,
    }
    settings = [checked(Settings(prompt=prompt, seed=seed, **shared)) for prompt in prompts for seed in seeds]
    return [with_strength(one, args.strength) for one in settings]


def settings_from(args: argparse.Namespace, profile: Profile) -> list[Settings]:
    """What the command line asks for."""
    check("--n", args.n, PICTURES)
    if args.again:
        settings = read_settings(args.again)
        check_unchanged(settings, args.again)
        return [settings]
    prompts = read_prompts(args.prompts) if args.prompts else args.prompt
    if not prompts:
        raise UserError('no prompt; try `python -m app.generate "an owl"`, or --prompts FILE')
    named = [(str(adapter_path(args.variant)), 1.0)] if args.variant else []
    named += [split_strength(text) for text in args.lora]
    adapters = [chosen_adapter(Path(path).expanduser(), strength) for path, strength in named]
    return settings_for(args, profile, adapters, prompts, range(args.seed, args.seed + args.n))


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """The options that settings_for reads, and where the pictures go."""
    parser.add_argument("--prompts", type=Path, help="a text file with one prompt a line")
    parser.add_argument("--strength", type=float, default=1.0, help="how much the adapters count, 0 to 1.5 is usual")
    parser.add_argument("--negative", default="", help="what not to draw")
    parser.add_argument("--steps", type=int, help="default: the profile's")
    parser.add_argument("--guidance", type=float, help="default: the profile's")
    parser.add_argument("--size", type=size, metavar="WxH", help="px; default: the profile's resolution")
    parser.add_argument("--sketch", type=Path, metavar="FILE", help="a picture to draw over")
    parser.add_argument("--change", type=float, default=0.6, help="how much of the sketch is drawn anew; default: 0.6")
    parser.add_argument("--profile", help="a file under profiles/; default: that of params.yaml")
    parser.add_argument("--json", action="store_true", help="print files and settings as JSON")


def size(text: str) -> tuple[int, int]:
    """(width, height) from '512x768', for argparse."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: write WIDTHxHEIGHT, as in 512x768")
    return int(match[1]), int(match[2])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m app.generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompt", nargs="*", help="what to draw; quote each prompt")
    parser.add_argument("--again", type=Path, metavar="PNG", help="a picture made before: draw it again")
    parser.add_argument("--variant", help="the adapter of runs/lora/<variant>/best.safetensors")
    parser.add_argument(
        "--lora",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="adapters for this base, in diffusers' or kohya's format",
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--n", type=int, default=1, help="pictures a prompt, with seeds from --seed on")
    add_picture_options(parser)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for the pictures; default: {OUT}")
    parser.add_argument("--stencil-mm", type=float, metavar="MM", help="a stencil of each beside it, so wide")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    from tattoo_lora.progress import tqdm

    if args.stencil_mm is not None:
        from app.stencil.files import write_stencil  # takes a second, which others need not wait
        from app.stencil.options import Options, check_options

        stencil = Options(width_mm=args.stencil_mm)
        check_options(stencil, width="--stencil-mm")
    profile = load_profile(args.profile or load_params().profile)
    wanted = settings_from(args, profile)
    writable(args.out)
    written = []
    progress = tqdm(zip(wanted, draw(wanted, profile), strict=True), total=len(wanted), unit="picture")
    for settings, image in progress:
        path = save(image, settings, args.out)
        files = [str(path)]
        if args.stencil_mm is not None:
            files += map(str, write_stencil(path, stencil, args.out).files.values())
        written.append({"files": files, "settings": asdict(settings)})
        if not args.json:
            progress.write("\n".join(files), file=sys.stdout)
    if args.json:
        print(json.dumps(written, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
