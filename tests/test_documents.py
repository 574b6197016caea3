"""The documents do what they say: their commands run, their links lead somewhere, no error is missing.

A block that needs a GPU, the hub or an account has `<!-- not run: why -->` before it; `pytest -rs` lists them.
"""

import ast
import os
import re
import runpy
import shutil
import subprocess

import numpy as np
import pytest
from conftest import DRAWINGS, ENVIRONMENT, ROOT, copy_project, run

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCES = sorted(
    [*ROOT.glob("*.py"), *(path for top in ("app", "stages", "tattoo_lora") for path in (ROOT / top).rglob("*.py"))]
)
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.+?) -->\n)?```bash\n(?P<code>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


def read_text(document):
    return document.read_text(encoding="utf-8")


def blocks(document):
    """(command lines, why they are not run or None) of each block for a shell."""
    return [(match["code"], match["why"]) for match in BLOCK.finditer(read_text(document))]


RUN = [document for document in DOCUMENTS if any(why is None for _, why in blocks(document))]
NOT_RUN = [(document.name, why, code) for document in DOCUMENTS for code, why in blocks(document) if why]


@pytest.mark.slow  # trainings and pictures, minutes in all
@pytest.mark.parametrize("document", RUN, ids=lambda document: document.name)
def test_every_command_runs_in_a_small_finished_project(finished, tmp_path, document):
    project = copy_project(finished, tmp_path / "project")
    shutil.copytree(project / "data/raw/flash", tmp_path / "home/my-flash")
    environment = {**ENVIRONMENT, "HOME": str(tmp_path / "home"), "PRE_COMMIT_HOME": str(tmp_path / "hooks")}
    for code, why in blocks(document):
        if why is None:
            for drawing in re.findall(r"data/raw/flash/[\w-]+\.png", code):  # all that the sample has can be named
                shutil.copy(ROOT / drawing, project / drawing)
            done = subprocess.run(
                ["bash", "-e", "-c", code], cwd=project, env=environment, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            # What Git knows is committed, as one does between two things; new drawings are for `dvc add`.
            run("git", "commit", "-qam", "state", cwd=project, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("document", "why", "code"), NOT_RUN, ids=[f"{name}-{why}" for name, why, _ in NOT_RUN])
def test_what_is_not_run_is_listed_and_at_least_parses(document, why, code):
    subprocess.run(["bash", "-n", "-c", code], check=True)
    pytest.skip(f"{document}: {why}")


def test_the_readmes_strip_goes_from_drawings_to_stencils(finished):
    program = runpy.run_path(str(ROOT / "docs/make_strip.py"))
    columns = program["pictures"](finished, DRAWINGS[:4])
    assert [len(shown) for shown in columns.values()] == [4] * 4
    drawings, base, adapter, stencils = (
        np.array([np.asarray(program["cell"](picture), int) for picture in shown]) for shown in columns.values()
    )
    assert np.ptp(drawings, axis=3).max() == np.ptp(stencils, axis=3).max() == 0 < np.ptp(base, axis=3).max()
    levels = adapter.mean(axis=3)
    for i, ink in enumerate(stencils[..., 0] < 128):  # each stencil inks the darker parts of its own picture
        contrast = [level[~ink].mean() - level[ink].mean() for level in levels]
        assert contrast[i] == max(contrast) > 10
    block = 2 * program["SIDE"] + program["GAP"]
    assert program["strip"](columns).size == (4 * block + 3 * program["BETWEEN"], program["TITLE"] + block)


def test_the_forty_prompts_stand_as_the_base_and_the_adapter_draw_them(finished):
    program = runpy.run_path(str(ROOT / "docs/make_forty_prompts.py"))
    image = np.asarray(program["sheet"](finished, ["snail", "anchor", "smiling face with horns"]), int)
    side, gap = program["SIDE"], program["GAP"]
    assert image.shape == (2 * side + program["NAME"], program["COLUMNS"] * (side + gap) - gap, 3)
    columns = [slice(i * (side + gap), i * (side + gap) + side) for i in range(4)]
    saturation = [[np.ptp(image[top : top + side, column], axis=2).mean() for column in columns] for top in (0, side)]
    assert all(below < above for above, below in zip(*saturation, strict=True) if above)  # less colour
    assert [above > 0 for above in saturation[0]] == [True, True, True, False]  # three names leave the rest empty
    assert all((image[2 * side :, column] < 200).any() for column in columns[:3])  # what they show


def anchors(document):
    """The headings as links name them on a Git host."""
    headings = re.findall(r"^#+ (.+)$", read_text(document), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_leads_somewhere(document):
    for link in LINK.findall(read_text(document)):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_program_that_is_named_is_there(document):
    for module in re.findall(r"python -m ((?:app|stages|bench)[\w.]*)", read_text(document)):
        path = ROOT / module.replace(".", "/")
        shown_in_a_recipe = module == "stages.shorten"
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file() or shown_in_a_recipe, module
    for script in re.findall(r"(?<![\w/])(?:\.ci|tests)/[\w.]+", read_text(document)):
        assert (ROOT / script).exists(), script


def errors(source):
    """What the guide's line for each UserError holds, and how it ends: fixed parts of the message."""
    for node in ast.walk(ast.parse(read_text(source))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
            parts = [node.args[0]] if isinstance(node.args[0], ast.Constant) else node.args[0].values
            fixed = [part.value if isinstance(part, ast.Constant) else "…" for part in parts]
            yield max(fixed, key=len).strip().replace("`", ""), fixed[-1].strip(" …").replace("`", "")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: os.path.relpath(source, ROOT))
def test_every_error_is_in_the_troubleshooting_guide(source):
    guide = [row.split(" |")[0] for row in read_text(ROOT / "docs/troubleshooting.md").splitlines()]
    missing = [error for error, end in errors(source) if not any(error in row and row.endswith(end) for row in guide)]
    assert missing == []


def test_every_not_run_block_says_why():
    assert all(len(why) > 10 for _, why, _ in NOT_RUN)
