"""Bringing a folder of drawings into data/raw, and setting keys of params.yaml and profiles, touching nothing else.

Standard library and PyYAML only, so that `main.py --images` answers at once.
"""

import filecmp
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import yaml

from stages.preprocess.files import NOT_DRAWINGS, find_files
from tattoo_lora.data.file_names import RESERVED, split_words
from tattoo_lora.errors import UserError
from tattoo_lora.files import replace_file
from tattoo_lora.params import load_params, load_profile

# A value with its quotation marks, or as it is: up to a blank and a #, or the line's end.
VALUE = r"""(?:"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\r\n]|'')*'|(?:(?!\s\#)[^\r\n])*?)"""


def plain_name(name: str) -> str:
    """A name for a folder in data/raw: reduced to letters of any script, digits, - and _."""
    name = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", name)).strip("-")[:60] or "drawings"
    return f"{name}-drawings" if RESERVED.fullmatch(name) else name


def is_set_name(name: str) -> bool:
    """Whether the stages' commands can take a folder of data/raw with that name."""
    return re.fullmatch(r"[\w.-]+", name) is not None


def files_below(folder: Path) -> Iterator[Path]:
    """Regular files, and links to them, by their path below the folder. Links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if (path := Path(parent, name)).is_file():
                yield path.relative_to(folder)


def is_copy(target: Path, images: Path) -> bool:
    """Whether all that is in `target` is in `images` too, to the byte."""
    there = list(files_below(target))
    return all((images / path).is_file() and filecmp.cmp(target / path, images / path, False) for path in there)


def place_for(images: Path, root: Path) -> Path:
    """The folder under data/raw for these drawings: the one that holds them already, or else a new one."""
    remembered = root / ".scratch/sources"
    name, number = plain_name(images.name), 1
    while True:
        target = root / "data/raw" / (name if number == 1 else f"{name}-{number}")
        memory = remembered / f"{target.name}.txt"
        if memory.is_file() and target.is_dir():
            ours = memory.read_text(encoding="utf-8") == str(images)
        else:  # nobody brought it in here: another clone or a person copied it
            ours = not (target.exists() or target.is_symlink()) or (target.is_dir() and is_copy(target, images))
        if ours:
            remembered.mkdir(parents=True, exist_ok=True)
            memory.write_text(str(images), encoding="utf-8", newline="\n")
            return target
        number += 1


def bring_in(images: Path, root: Path) -> str:
    """Copy what is new or newer in a folder of drawings to data/raw/<its name>; returns the name.

    A folder of that name with other drawings in it stays as it is: the copy is called <its name>-2. Files that were
    edited or added in the copy stay too.
    """
    if not images.is_dir():
        raise UserError(f"{images}: no such folder")
    images, raw = images.resolve(), (root / "data/raw").resolve()
    if images.parent == raw:
        return images.name
    if raw.is_relative_to(images) or images.is_relative_to(raw):
        raise UserError(f"{images}: holds or is part of data/raw; give a folder of drawings")
    if not any(files_below(images)):
        raise UserError(f"{images}: no files in it")
    target = place_for(images, root)
    new, already = copy_new(images, target)
    were_there = f", {already} were there already" if already else ""
    print(f"{images}: {new} files copied to data/raw/{target.name}{were_there}.")
    return target.name


def copy_new(images: Path, target: Path) -> tuple[int, int]:
    """Copy the files that are new or newer than those in `target`; how many those are, and how many were there."""
    new = already = 0
    for path in files_below(images):
        source, copy = images / path, target / path
        if copy.is_file() and (
            copy.stat().st_mtime >= source.stat().st_mtime or filecmp.cmp(source, copy, shallow=False)
        ):
            already += 1
            continue
        if not copy.parent.resolve().is_relative_to(target.resolve()):
            raise UserError(f"{copy}: leads out of the folder by a link; remove the link")
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(copy) as partial:
                shutil.copy2(source, partial)
        except PermissionError as error:
            raise UserError(f"{error.filename}: cannot be copied ({error.strerror})") from None
        new += 1
    return new, already


def named_drawings(folder: Path) -> tuple[int, int]:
    """The number of files that may be drawings whose names say what is drawn, and the number of all of them."""
    paths = [path for path, why_not in find_files(folder) if not why_not and path.suffix.lower() not in NOT_DRAWINGS]
    return sum(bool(split_words(path.stem)) for path in paths), len(paths)


def as_yaml(value: object) -> str:
    """The value as YAML on one line, a text in quotation marks if YAML could read it as something else: 2024 or no."""
    if isinstance(value, str) and re.fullmatch(r"[^\W\d_][\w-]*", value) and yaml.safe_load(value) == value:
        return value
    if isinstance(value, float):  # YAML reads 1e-05 as a text
        mantissa, _, exponent = repr(value).partition("e")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}e{exponent}" if exponent else mantissa
    return json.dumps(value, ensure_ascii=False)


def set_key(path: Path, key: str, value: object) -> None:
    """Change the value of `key` (`dataset` or `variants.blip.trigger`) in a YAML file and no other byte.

    UserError where there is no such key, or where it is written on several lines.
    """
    *sections, name = key.split(".")
    text = path.read_bytes().decode("utf-8")
    content = yaml.safe_load(text)
    holder = content
    for section in sections:
        holder = holder.get(section) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or name not in holder:
        raise UserError(f"{path}: there is no {key} in it")
    if holder[name] == value and type(holder[name]) is type(value):
        return
    holder[name] = value
    start, indent = 0, ""
    for section in sections:
        line = re.compile(rf"(?m)^{indent}{re.escape(section)}:.*\n(?:[ \t]*(?:#.*)?\r?\n)*([ ]*)").search(text, start)
        start, indent = (line.end() - len(line[1]), line[1]) if line else (len(text), "")
    pattern = rf"(?m)^({indent}{re.escape(name)}:[ \t]+){VALUE}(?=[ \t]*(?:[ \t]#[^\r\n]*)?\r?$)"
    changed = text[:start] + re.sub(pattern, lambda match: match[1] + as_yaml(value), text[start:], count=1)
    if yaml.safe_load(changed) != content:
        raise UserError(f"{path}: {key} is written in a way that is not understood; set it to {value} by hand")
    with replace_file(path) as partial:
        partial.write_bytes(changed.encode("utf-8"))


def read_setting(text: str) -> tuple[str, str, object]:
    """File, key and value of `[FILE:]KEY=VALUE`, as `dvc exp run -S` takes it; the file is params.yaml or a profile."""
    match = re.fullmatch(r"(?:(params\.yaml|profiles/[\w-]+\.yaml):)?([\w-]+(?:\.[\w-]+)*)=(.*)", text)
    if not match:
        raise UserError(f"-S {text}: write KEY=VALUE, or profiles/NAME.yaml:KEY=VALUE")
    try:
        return match[1] or "params.yaml", match[2], yaml.safe_load(match[3])
    except yaml.YAMLError:
        raise UserError(f"-S {text}: the value is no YAML") from None


def set_params(root: Path, settings: list[tuple[str, str, object]]) -> None:
    """Set each (file, key, value). UserError if one cannot be set or is not allowed; nothing is changed then."""
    before: dict[Path, bytes] = {}
    try:
        for file, key, value in settings:
            if not (path := root / file).is_file():
                raise UserError(f"{path}: no such profile")
            before.setdefault(path, path.read_bytes())
            set_key(path, key, value)
        load_profile(load_params(root).profile, root)
    except UserError:
        for path, content in before.items():
            with replace_file(path) as partial:
                partial.write_bytes(content)
        raise
