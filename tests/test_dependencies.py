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


def sources(stage):
    return [path.relative_to(ROOT).as_posix() for path in code_files(ROOT / f"stages/{stage}.py")]


def test_there_is_a_stage_for_each_file_and_a_file_for_each_stage():
    assert {path.stem for path in (ROOT / "stages").glob("[a-z]*.py")} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_imports_is_declared_and_no_other(stage):
    declared = {dep for dep in definition(stage)["deps"] if dep.endswith(".py")}
    assert declared == set(sources(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_loads_a_model_depends_on_the_profiles_folder_of_models(stage):
    loads = any("from_pretrained" in (ROOT / source).read_text(encoding="utf-8") for source in sources(stage))
    assert loads == ("models/${profile}" in definition(stage)["deps"])
    assert all((ROOT / "models" / path.stem).is_dir() for path in (ROOT / "profiles").glob("*.yaml"))


def test_what_a_file_imports_is_found_wherever_it_does_and_what_that_imports_too():
    names = {path.name for path in imported_files(ROOT / "stages/preprocess.py")}
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
    text = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")
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
    source = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    assert f"    python -m stages.{stage} " in ast.get_docstring(ast.parse(source))
    assert "ArgumentParser(description=__doc__" in source
