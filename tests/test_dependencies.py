"""What a stage imports and reads is what dvc.yaml declares: a missing line would mean silently stale results."""

import ast
import re

import pytest
import yaml
from conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def definition(stage):
    return STAGES[stage].get("do", STAGES[stage])


def imported_files(source):
    """The project's own files that a file imports, and what these import in turn."""
    found = {"stages/__init__.py", "tattoo_lora/__init__.py"}
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            file = f"{module.replace('.', '/')}.py"
            if module.startswith(("tattoo_lora.", "stages.")) and file not in found:
                found |= {file} | imported_files(file)
    return found


def test_there_is_a_stage_for_each_file_and_a_file_for_each_stage():
    assert {path.stem for path in (ROOT / "stages").glob("[a-z]*.py")} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_imports_is_declared_and_no_other(stage):
    declared = {dep for dep in definition(stage)["deps"] if dep.endswith(".py")}
    assert declared == imported_files(f"stages/{stage}.py") | {f"stages/{stage}.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_the_profile_keys_that_a_stage_reads_are_declared_and_no_other(stage):
    used = set()
    for source in {f"stages/{stage}.py"} | imported_files(f"stages/{stage}.py"):
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
