"""What a stage imports and reads is what dvc.yaml declares: a missing line would mean silently stale results."""

import ast
import re

import pytest
import yaml
from conftest import ROOT

from tattoo_lora.keys import code_files, imported_files

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def definition(stage):
    return STAGES[stage].get("do", STAGES[stage])


def main_file(stage):
    """The module that the stage's command runs: a file, or a folder's __main__.py."""
    path = ROOT / re.search(r"-m (stages\.\w+)", definition(stage)["cmd"])[1].replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def sources(stage):
    return [path.relative_to(ROOT).as_posix() for path in code_files(main_file(stage))]


def test_there_is_a_stage_for_each_file_or_folder_and_one_of_these_for_each_stage():
    there = {*(ROOT / "stages").glob("[a-z]*.py"), *(ROOT / "stages").glob("[a-z]*/__main__.py")}
    assert there == {main_file(stage) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_imports_lies_in_what_it_declares_and_all_of_that_is_needed(stage):
    declared = {dep for dep in definition(stage)["deps"] if dep.startswith(("stages/", "tattoo_lora/"))}
    holders = {
        source: [dep for dep in declared if source == dep or source.startswith(f"{dep}/")] for source in sources(stage)
    }
    assert [source for source, deps in holders.items() if not deps] == []
    assert declared == {dep for deps in holders.values() for dep in deps}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_loads_a_model_depends_on_the_profiles_folder_of_models(stage):
    loads = any("from_pretrained" in (ROOT / source).read_text(encoding="utf-8") for source in sources(stage))
    assert loads == ("models/${profile}" in definition(stage)["deps"])
    assert all((ROOT / "models" / path.stem).is_dir() for path in (ROOT / "profiles").glob("*.yaml"))


def test_what_a_file_imports_is_found_wherever_it_does_and_what_that_imports_too():
    names = {path.name for path in imported_files(ROOT / "stages/preprocess/__main__.py")}
    assert {"captions.py", "raw_images.py", "texts.py"} <= names and "train.py" not in names


@pytest.mark.parametrize("stage", STAGES)
def test_the_profile_keys_that_a_stage_reads_are_declared_and_no_other(stage):
    used = set()
    for source in sources(stage):
        used |= set(re.findall(r"\bprofile\.([a-z_]+)", (ROOT / source).read_text(encoding="utf-8")))
    declared = set()
    for params in definition(stage).get("params", []):
        if isinstance(params, dict):
            declared |= set(*params.values())
    assert declared == used - {"profile"}


@pytest.mark.parametrize("stage", STAGES)
def test_the_params_sections_that_a_stage_reads_are_declared_and_no_other(stage):
    text = main_file(stage).read_text(encoding="utf-8")
    used = set(
        re.findall(
            r"\b(?:all_params|load_params\(\))\.(preprocess|caption_blip|enrich|encode|train|evaluate|report|variants?)\b",
            text,
        )
    )
    used = {"variants" if name == "variant" else name for name in used}
    declared = {params.split(".")[0] for params in definition(stage).get("params", []) if isinstance(params, str)}
    assert declared == used


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_what_it_does(stage):
    assert definition(stage)["desc"].endswith(".")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_shows_an_example_of_itself_in_its_help(stage):
    source = main_file(stage).read_text(encoding="utf-8")
    module = main_file(stage).relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__main__").replace("/", ".")
    assert f"    python -m {module} " in ast.get_docstring(ast.parse(source))
    assert "ArgumentParser(description=__doc__" in source
