"""What a stage imports and reads is what dvc.yaml declares: a missing line would mean silently stale results."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from tattoo_lora.keys import code_files, imported_files
from tattoo_lora.params import TAKEN

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


LOADERS = {"Params": "load_params", "Profile": "load_profile"}  # what alone gives a value of that type


def keys_read(paths, kind):
    """The keys ("train.rank", "variants.*.trigger") that modules read of params.yaml (`Params`) or of a `Profile`.

    Nothing is guessed from variable names. A whole file's values come from its loader or arrive in a parameter of that
    type; every use of either is followed. It may take an attribute, which is a key, or hand the whole to a function of
    these modules in a parameter of that type. Any other use would lose the trace, and fails.
    """
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    functions = {
        node.name: node for module in modules for node in ast.walk(module) if isinstance(node, ast.FunctionDef)
    }
    keys = set()
    for module in modules:
        parents = {child: node for node in ast.walk(module) for child in ast.iter_child_nodes(node)}
        loaded = [node for node in ast.walk(module) if isinstance(node, ast.Call) and is_name(node.func, LOADERS[kind])]
        assigned = [call for call in loaded if isinstance(parents[call], ast.Assign)]
        wholes = [call for call in loaded if call not in assigned]
        for function in [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]:
            names = {name for name, annotation in parameters(function) if is_name(annotation, kind)}
            for call in set(ast.walk(function)) & set(assigned):
                assigned.remove(call)
                [target] = parents[call].targets
                names.add(target.id)
            wholes += [
                node
                for node in ast.walk(function)
                if isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load)
            ]
        assert assigned == [], "a module's own variable can be read from anywhere"
        for node in wholes:
            parent = parents[node]
            if isinstance(parent, ast.Attribute):
                keys.add(dotted(node, parents))
            elif isinstance(parent, ast.Call):
                function = functions.get(getattr(parent.func, "id", None))
                assert function, f"line {node.lineno}: what does {ast.unparse(parent.func)} read of it?"
                _, annotation = parameters(function)[parent.args.index(node)]
                assert is_name(annotation, kind), f"line {node.lineno}: not handed on as {kind}"
            else:
                assert isinstance(parent, ast.Expr), f"line {node.lineno}: what is read in {ast.unparse(parent)}?"
    return keys


def is_name(node, name):
    return isinstance(node, ast.Name) and node.id == name


def parameters(function):
    return [(argument.arg, argument.annotation) for argument in function.args.args]


def dotted(node, parents):
    """The key that the attributes of the whole make: all_params.variant(name).trigger is variants.*.trigger."""
    sections = {"variant": "variants", "own_captioner": "captioners"}
    keys = []
    while isinstance(parents[node], ast.Attribute) or keys and keys[-1] in sections:
        node = parents[node]
        keys = [sections[keys[-1]], "*"] if isinstance(node, ast.Call) else [*keys, node.attr]
    return ".".join(keys)


def lies_in(key, section):
    return key == section or key.startswith(f"{section}.")


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("stage", STAGES)
def test_the_keys_that_a_stage_reads_are_declared_and_no_others(stage, kind):
    own = [ROOT / source for source in sources(stage) if source.startswith("stages/")]
    read = keys_read(own, kind) - {"dataset", "profile"}  # in the stage's command or in the profile's name
    declared = set()
    for params in definition(stage).get("params", []):
        in_profile = isinstance(params, dict)
        if in_profile == (kind == "Profile"):
            declared |= (
                set(*params.values()) if in_profile else {re.sub(r"^(variants|captioners)\.[^.]+", r"\1.*", params)}
            )
    assert [key for key in read if not any(lies_in(key, section) for section in declared)] == []
    assert [section for section in declared if not any(lies_in(key, section) for key in read)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "tattoo_lora").glob("*/*.py")), ids=lambda path: path.stem)
def test_what_stages_share_takes_sections_and_never_the_whole_of_params_or_a_profile(path):
    assert not re.findall(r"\b(?:Params|Profile|load_params|load_profile)\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("return p.inference.threads", {"inference.threads"}),
        ("return other(p), p.base", {"base", "train"}),
        ("return {**vars(p)}", AssertionError),
        ("q = p", AssertionError),
        ("return untyped(p)", AssertionError),
        ("return load_profile('x').clip", {"clip"}),
        ("s = load_profile('x'); return s.resolution", {"resolution"}),
    ],
)
def test_every_use_of_a_whole_profile_is_followed_and_an_untraceable_one_fails(tmp_path, line, read):
    others = "def other(x: Profile):\n    return x.train\ndef untyped(x):\n    pass\n"
    text = f"def f(p: Profile):\n    {line}\n{others}"
    (tmp_path / "stage.py").write_text(text)
    if isinstance(read, set):
        assert keys_read([tmp_path / "stage.py"], "Profile") == read | {"train"}
    else:
        with pytest.raises(read):
            keys_read([tmp_path / "stage.py"], "Profile")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_what_it_does(stage):
    assert definition(stage)["desc"].endswith(".")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_shows_an_example_of_itself_in_its_help(stage):
    source = main_file(stage).read_text(encoding="utf-8")
    module = main_file(stage).relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__main__").replace("/", ".")
    assert f"    python -m {module} " in ast.get_docstring(ast.parse(source))
    assert "ArgumentParser(description=__doc__" in source


def test_no_variant_may_have_the_name_of_another_file_among_the_metrics():
    written = [out for stage in STAGES for out in [*definition(stage)["outs"], *definition(stage).get("metrics", [])]]
    paths = [Path(out if isinstance(out, str) else next(iter(out))) for out in written]
    assert {path.stem for path in paths if path.parent.name == "metrics"} - {"${key}"} == set(TAKEN)
