"""What a sweep tries: `-S train.rank=4,8,16` is a list, `-S 'learning_rate=1e-5..1e-3:log'` a range."""

import math
import re
import shutil
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import optuna
import yaml

from app.own_folder import as_yaml, set_params
from app.runs import flatten
from tattoo_lora.data.texts import read_text
from tattoo_lora.errors import UserError

NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(:log)?")
DIGITS = 4  # of a number from a range: more make no difference, and names of files and tables stay readable
Values = dict[str, str]  # by a knob's name, each as it stands after -S NAME=


@dataclass(frozen=True)
class Knob:
    """A param to vary: one of `values`, or a number from low to high; whole numbers if both ends are."""

    file: str  # params.yaml or profiles/NAME.yaml
    key: str
    values: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False

    @property
    def name(self) -> str:
        """The param as `dvc exp run -S` takes it."""
        return self.key if self.file == "params.yaml" else f"{self.file}:{self.key}"

    def pick(self, trial: optuna.trial.BaseTrial) -> str:
        """The trial's value for this knob."""
        if self.values:
            return trial.suggest_categorical(self.name, self.values)
        if isinstance(self.low, int):
            return str(trial.suggest_int(self.name, self.low, self.high, log=self.log))
        return as_yaml(float(f"{trial.suggest_float(self.name, self.low, self.high, log=self.log):.{DIGITS}g}"))


def read_knobs(texts: list[str], root: Path, profile: str) -> list[Knob]:
    """The knobs of `-S` options; UserError if one is not understood, or one of its values is not allowed."""
    knobs = [read_knob(text, root, profile) for text in texts]
    for i, knob in enumerate(knobs):
        if knob in knobs[:i] or knob.name in [other.name for other in knobs[:i]]:
            raise UserError(f"-S {texts[i]}: {knob.name} stands in two -S; write all its values in one")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(root / "params.yaml", folder)
        shutil.copytree(root / "profiles", Path(folder, "profiles"))
        for knob in knobs:
            for value in knob.values or (as_yaml(knob.low), as_yaml(knob.high)):
                try:
                    set_params(Path(folder), [(knob.file, knob.key, yaml.safe_load(value))])
                except UserError as error:
                    raise UserError(f"{str(error).replace(folder + '/', '')}") from None
    return knobs


def read_knob(text: str, root: Path, profile: str) -> Knob:
    match = re.fullmatch(r"(?:(params\.yaml|profiles/[\w-]+\.yaml):)?([\w-]+(?:\.[\w-]+)*)=(.+)", text)
    if not match:
        raise UserError(f"-S {text}: write KEY=4,8,16 or KEY=1e-5..1e-3:log, and FILE:KEY where FILE is not clear")
    file, key = find_key(match[1], match[2], root, profile)
    if ends := RANGE.fullmatch(match[3]):
        whole = all(re.fullmatch(r"[-+]?\d+", end) for end in ends.group(1, 2))
        low, high = (int(end) if whole else float(end) for end in ends.group(1, 2))
        if low >= high or ends[3] and low <= 0:
            raise UserError(f"-S {text}: a range goes from a lower number to a higher one, and with :log from above 0")
        return Knob(file, key, (), low, high, bool(ends[3]))
    try:
        values = yaml.safe_load(f"[{match[3]}]")
    except yaml.YAMLError:
        raise UserError(f"-S {text}: the values are no YAML") from None
    return Knob(file, key, tuple(dict.fromkeys(as_yaml(number_or_text(value)) for value in values)))


def number_or_text(value: object) -> object:
    """1e-4 as a number, which YAML 1.1 takes for a text."""
    return float(value) if isinstance(value, str) and re.fullmatch(NUMBER, value) else value


def find_key(file: str | None, key: str, root: Path, profile: str) -> tuple[str, str]:
    """File and whole key: `learning_rate` is enough where params.yaml and the profile have one key of that name."""
    files = [file] if file else ["params.yaml", f"profiles/{profile}.yaml"]
    if file and not (root / file).is_file():
        raise UserError(f"{file}: no such profile")
    names = [(path, name) for path in files for name, _ in flatten(yaml.safe_load(read_text(root / path)))]
    matching = [(path, name) for path, name in names if name == key]
    matching = matching or [(path, name) for path, name in names if name.endswith(f".{key}")]
    if len(matching) != 1:
        some = ", ".join(f"{path}:{name}" for path, name in matching) or "none"
        raise UserError(f"-S {key}=…: params of that name in {' and '.join(files)}: {some}; name one")
    return matching[0]


def grid(knobs: list[Knob]) -> list[Values]:
    """All combinations, if each knob is a list; empty if one is a range."""
    if not all(knob.values for knob in knobs):
        return []
    return [
        dict(zip([knob.name for knob in knobs], values, strict=True)) for values in product(*[k.values for k in knobs])
    ]
