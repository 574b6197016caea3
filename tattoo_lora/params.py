"""params.yaml and profiles/<profile>.yaml as typed values, checked before anything heavy is imported.

The whole of both files is checked whichever stage asks: a typo in what the last stage reads should
stop the first one, not an hour of training later.
"""

import math
import re
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from tattoo_lora.data.file_names import RESERVED
from tattoo_lora.data.texts import read_text
from tattoo_lora.errors import UserError


@dataclass(frozen=True)
class Range:
    """Allowed numbers, both ends included."""

    low: float
    high: float = math.inf

    multiple_of: int = 1

    def __str__(self) -> str:
        ends = f"at least {self.low:.10g}" if self.high == math.inf else f"{self.low:.10g} to {self.high:.10g}"
        return ends if self.multiple_of == 1 else f"{ends}, a multiple of {self.multiple_of}"

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and (self.multiple_of == 1 or value % self.multiple_of == 0)


@dataclass(frozen=True)
class Different:
    """Lists without repeats, of numbers in a range or of texts: what stands twice would count twice."""

    each: Range | None = None

    def __str__(self) -> str:
        return "each once" if self.each is None else f"from {self.each}, each once"

    def __contains__(self, values: list) -> bool:
        return len(set(values)) == len(values) and (self.each is None or all(value in self.each for value in values))


TAKEN = ("base", "findings", "held_out", "report")  # by files of metrics/ and folders of runs/evaluation/
CAPTIONED = ("vanilla", "blip", "blip_plus")  # variants whose captions preprocess, caption_blip and enrich write
MAY_BE_EMPTY = ("captioners",)  # sections
SEEDS = Range(0, 2**32 - 1)  # torch's CPU generator takes 32 bits of a seed and drops the others without a word
SAMPLER_STEPS = Range(1, 998)  # from 999 of 1000 timesteps on, DPM-Solver++ divides by zero
# To YAML 1.1 this is a text. DVC reads YAML 1.2, and its -S writes 1e-05 even where 1.0e-05 was asked for.
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
Count = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class PreprocessParams:
    fit: Literal["pad", "crop", "bucket"]
    trim: bool
    margin: Annotated[float, Range(0, 1)]
    invert: bool
    flatten: Literal["auto", "true", "false"]
    threshold: Annotated[int, Range(1, 254)] | None
    min_size: Count
    max_upscale: Annotated[float, Range(1)]
    duplicates: Literal["drop", "keep"]
    duplicate_distance: Annotated[int, Range(0, 128)]
    max_rejected: Share
    require_license: bool
    val_share: Annotated[float, Range(0.01, 0.45)]
    test_share: Annotated[float, Range(0.01, 0.45)]
    vanilla_caption: str


@dataclass(frozen=True)
class CaptionBlipParams:
    captions_from: Literal["blip", "names", "names-then-blip"]
    max_new_tokens: Annotated[int, Range(1, 200)]
    num_beams: Annotated[int, Range(1, 32)]


@dataclass(frozen=True)
class EnrichParams:
    suffix: str


@dataclass(frozen=True)
class EncodeParams:
    flip: bool
    placements: Annotated[int, Range(1, 64)]


@dataclass(frozen=True)
class TrainParams:
    seed: Annotated[int, Range(0, 2**31)]
    init_from: str | None
    rank: Annotated[int, Range(1, 1024)]
    ranks: dict[str, Annotated[int, Range(1, 1024)]] | None
    alpha: Annotated[float, Range(0.001)]
    use_rslora: bool
    lora_dropout: Annotated[float, Range(0, 0.95)]
    use_dora: bool
    text_encoder_lr: Annotated[float, Range(1e-8, 1)] | None
    lora_plus_ratio: Annotated[float, Range(1, 1000)] | None
    optimizer: Literal["adamw", "adamw_8bit", "prodigy"]
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: Share
    stratified_timesteps: bool
    noise_offset: Share
    ema_decay: Annotated[float, Range(0, 0.99999)] | None
    micro_batch_size: Count | None
    gradient_checkpointing: bool
    compile: Literal["auto", "off", "default", "graphs"]
    deterministic: bool
    max_grad_norm: Annotated[float, Range(1e-6)] | None
    checkpoint_every: Count
    checkpoint_minutes: Annotated[float, Range(0)] | None
    save_every: Count | None
    early_stop_evals: Count | None
    val_drawings: Count
    val_timesteps: Annotated[int, Range(1, 1000)]
    sampler_steps: Annotated[int, SAMPLER_STEPS]
    prompts: Annotated[list[str], Different()]


@dataclass(frozen=True)
class EvaluateParams:
    timesteps: Annotated[int, Range(1, 1000)]
    common_caption: str
    seeds: Annotated[list[int], Different(SEEDS)]
    prompts: Annotated[list[str], Different()]
    plain_prompts: Annotated[list[str], Different()]
    copy_correlation: Annotated[float, Range(-1, 1)]
    copy_cosine: Annotated[float, Range(-1, 1)]


@dataclass(frozen=True)
class ReportParams:
    smallest_difference: Share


@dataclass(frozen=True)
class VariantParams:
    trigger: str
    caption_dropout: Share


@dataclass(frozen=True)
class Model:
    """A folder in the hub's layout, without a revision, or a hub id at a commit."""

    id: str
    revision: str | None


@dataclass(frozen=True)
class CaptionerParams(Model):
    """Another model that captions; a prompt of null is its kind's usual one."""

    prompt: str | None
    max_new_tokens: Annotated[int, Range(1, 1000)]
    num_beams: Annotated[int, Range(1, 32)]


@dataclass(frozen=True)
class BaseModel(Model):
    """Or one file with a checkpoint of Stable Diffusion 1.x. `vae` takes its VAE's place: a folder, file or hub id."""

    vae: str | None = None


@dataclass(frozen=True)
class InferenceProfile:
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    threads: Count | None
    batch_size: Count


@dataclass(frozen=True)
class TrainProfile:
    target_modules: list[str]
    steps: Count | None
    epochs: Annotated[float, Range(0.01)] | None
    batch_size: Count
    gradient_accumulation_steps: Count
    learning_rate: Annotated[float, Range(1e-8, 1)]
    warmup_steps: Annotated[int, Range(0)]
    min_snr_gamma: Annotated[float, Range(0.1, 100)] | None
    eval_every: Count


@dataclass(frozen=True)
class SamplingProfile:
    sampler_steps: Annotated[int, SAMPLER_STEPS]
    guidance_scale: Annotated[float, Range(0, 100)]
    low_memory: bool


@dataclass(frozen=True)
class Profile:
    """What differs between model sets: profiles/<profile>.yaml."""

    base: BaseModel
    captioner: Model
    clip: Model
    resolution: Annotated[int, Range(16, 4096, multiple_of=8)]  # a latent is 8 px wide
    inference: InferenceProfile
    train: TrainProfile
    sampling: SamplingProfile


@dataclass(frozen=True)
class Params:
    """params.yaml."""

    dataset: str
    profile: str
    launch: str
    preprocess: PreprocessParams
    caption_blip: CaptionBlipParams
    enrich: EnrichParams
    encode: EncodeParams
    train: TrainParams
    evaluate: EvaluateParams
    report: ReportParams
    captioners: dict[str, CaptionerParams]
    variants: dict[str, VariantParams]

    def own_captioner(self, name: str) -> CaptionerParams:
        """The captioner of the variant of that name; UserError if it has none of its own."""
        if name not in self.captioners:
            raise UserError(f"params.yaml: captioners: there is no {name}; there are {', '.join(self.captioners)}")
        return self.captioners[name]

    def variant(self, name: str) -> VariantParams:
        """The knobs of one variant; UserError if there is none of that name."""
        if name not in self.variants:
            raise UserError(f"params.yaml: variants: there is no {name}; there are {', '.join(self.variants)}")
        return self.variants[name]


def load_params(root: Path = Path()) -> Params:
    """The values of params.yaml under `root`; UserError with file, key, found and allowed for anything amiss."""
    path = root / "params.yaml"
    params = _read(path, Params)
    for name in params.captioners:
        if name in CAPTIONED or name not in params.variants:
            raise UserError(
                f"{path}: captioners: found {name!r}, allowed: the name of one of the variants, but not of "
                f"{', '.join(CAPTIONED)}, which have their captions from stages of their own"
            )
    for name in params.variants:
        if not re.fullmatch(r"[^\W_][\w-]*", name) or name.lower() in TAKEN or RESERVED.fullmatch(name):
            raise UserError(
                f"{path}: variants: found {name!r}, allowed: a letter or digit, then letters, digits, _ and -; other "
                f"results have the names {', '.join(TAKEN)}, and Windows keeps con, nul and the like for devices"
            )
    return params


def load_profile(name: str, root: Path = Path()) -> Profile:
    """The values of profiles/<name>.yaml under `root`; UserError as `load_params`."""
    path = root / "profiles" / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"params.yaml: profile: there is no {path}; profiles here: {names}")
    profile = _read(path, Profile)
    for key, file in (("id", profile.base.id), ("vae", profile.base.vae or "")):
        if file.endswith(".safetensors") and Path(file).parts[:2] != ("models", name):
            raise UserError(
                f"{path}: base.{key}: found {file}, allowed for a single file: models/{name}/…; DVC has to see when it "
                "changes, so move or link it there"
            )
    train = profile.train
    if train.steps is None and train.epochs is None:
        raise UserError(f"{path}: train: found null for both steps and epochs; one of them has to end a training")
    if train.steps is not None and train.warmup_steps >= train.steps:
        raise UserError(
            f"{path}: train.warmup_steps: found {train.warmup_steps}, allowed: less than steps ({train.steps}); "
            "a training that ends in its warm-up learns next to nothing"
        )
    return profile


def _read(path: Path, schema: type) -> Any:
    try:
        raw = yaml.safe_load(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run this in the project's top folder") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UserError(f"{path}: no YAML{line}: {getattr(error, 'problem', error)}") from None
    return _section(path, "", raw, schema)


def _section(path: Path, prefix: str, raw: Any, schema: type) -> Any:
    if not isinstance(raw, dict):
        raise UserError(f"{path}: {prefix.rstrip('.') or 'the file'}: found {_show(raw)}, allowed is a section of keys")
    keys = {field.name for field in fields(schema)}
    for key in raw:
        if key not in keys:
            raise UserError(f"{path}: {prefix}{key}: unknown key; allowed: {', '.join(sorted(keys))}")
    hints = get_type_hints(schema, include_extras=True)
    values = {}
    for field in fields(schema):
        if field.name not in raw:
            raise UserError(f"{path}: {prefix}{field.name}: missing; allowed: {_describe(hints[field.name])}")
        values[field.name] = _value(path, prefix + field.name, raw[field.name], hints[field.name])
    return schema(**values)


def _value(path: Path, key: str, raw: Any, hint: Any, also: str = "") -> Any:
    if is_dataclass(hint):
        return _section(path, key + ".", raw, hint)
    if get_origin(hint) is dict:
        if not isinstance(raw, dict) or not raw and key not in MAY_BE_EMPTY:
            raise UserError(f"{path}: {key}: found {_show(raw)}, allowed is a section of keys")
        return {str(name): _value(path, f"{key}.{name}", value, get_args(hint)[1]) for name, value in raw.items()}
    if isinstance(hint, UnionType) or NoneType in get_args(hint):
        if raw is None:
            return None
        plain = next(option for option in get_args(hint) if option is not NoneType)
        return _value(path, key, raw, plain, also=" or null")
    kind, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(kind) is Literal:
        # YAML 1.1 takes these words for true and false.
        words = ("off", "false") if raw is False else ("on", "true") if raw is True else (raw,)
        raw = next((word for word in get_args(kind) if word in words), raw)
        fits = raw in get_args(kind)
    elif get_origin(kind) is list:
        fits = isinstance(raw, list) and len(raw) > 0 and all(type(item) is get_args(kind)[0] for item in raw)
    elif kind is float:
        if isinstance(raw, str) and EXPONENT.fullmatch(raw):
            raw = float(raw)
        fits = isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw)
    else:
        fits = type(raw) is kind  # a bool is no int here
    if not fits or any(raw not in rule for rule in rules):
        raise UserError(f"{path}: {key}: found {_show(raw)}, allowed: {_describe(hint)}{also}")
    return float(raw) if kind is float else raw


def _describe(hint: Any) -> str:
    if is_dataclass(hint) or get_origin(hint) is dict:
        return "a section of keys"
    if isinstance(hint, UnionType) or NoneType in get_args(hint):
        return _describe(next(option for option in get_args(hint) if option is not NoneType)) + " or null"
    kind, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", list[str]: "some texts"}
    names[list[int]] = "some whole numbers"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return " ".join([names[kind], *map(str, rules)])


def _show(raw: Any) -> str:
    return f"{raw!r}" if len(repr(raw)) <= 60 else f"{raw!r:.57}…"
