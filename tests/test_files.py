"""DVC may link results to its cache: a stage run by hand must replace them, never write into them."""

import ast
import os
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from app.stencil.files import write_stencil
from app.stencil.options import Options
from tattoo_lora.data.captions import write_caption, write_user_captions
from tattoo_lora.data.drawings import Drawing, write_drawings
from tattoo_lora.data.manifest import ManifestRow, write_manifest
from tattoo_lora.data.tables import write_rows
from tattoo_lora.diffusion.latents import write_moments
from tattoo_lora.files import replace_file


def stencil(path):
    picture = np.full((80, 80), 255, dtype=np.uint8)
    picture[20:60, 20:30] = 0
    Image.fromarray(picture).save(path.parent / "of.png")
    write_stencil(path.parent / "of.png", Options(width_mm=10), path.parent)


WRITERS = {
    "owl.txt": lambda path: write_caption(path.parent, "owl", "an owl"),
    "captions_user.csv": lambda path: write_user_captions(path, {"owl.png": ["an owl"]}),
    "drawings.csv": lambda path: write_drawings(path, [Drawing("owl.png", "0" * 64, "val")]),
    "manifest.csv": lambda path: write_manifest(path, [ManifestRow("owl.png")]),
    "pictures.csv": lambda path: write_rows(path, [{"a": 1}]),
    "latents.safetensors": lambda path: write_moments(path, {"owl.png": torch.zeros(1, 2, 4, 4)}),
    "of.stencil.png": stencil,
    "of.stencil.svg": stencil,
}


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_leaves_the_cache_alone_that_the_old_file_is_linked_to(tmp_path, name, link):
    cached, path = tmp_path / "cached", tmp_path / "out" / name
    path.parent.mkdir()
    cached.write_bytes(b"what DVC keeps")
    cached.chmod(0o444)
    link(cached, path)
    WRITERS[name](path)
    assert cached.read_bytes() == b"what DVC keeps"
    assert path.read_bytes() != b"what DVC keeps" and not path.is_symlink()
    assert not list(path.parent.glob("*.partial"))


def test_where_writing_fails_the_old_file_stays(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    with pytest.raises(ZeroDivisionError), replace_file(tmp_path / "table.csv") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"table.csv": "old"}


@pytest.mark.parametrize("stage", ["preprocess", "caption_blip", "enrich", "encode", "train", "evaluate"])
def test_a_stage_writes_its_results_through_replace_file_alone(stage):
    files = [*(ROOT / "stages").glob(f"{stage}.py"), *(ROOT / "stages" / stage).glob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    writes = re.findall(r'.*(?:image|sheet)\S*\.save\(.*|.*\.write_(?:text|bytes)\(.*|.*open\("[wx].*', source)
    assert files
    assert [line for line in writes if "partial" not in line and "buffer" not in line] == []


@pytest.mark.parametrize("folder", ["stages", "tattoo_lora", "app"])
def test_no_text_gets_other_line_ends_on_windows(folder):
    """There Python writes \\r\\n for \\n unless told otherwise, and DVC hashes the bytes."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            name = getattr(call.func, "attr", None)
            modes = [arg.value for arg in call.args[:1] if isinstance(arg, ast.Constant)]
            if name == "write_text" or name == "open" and modes in (["w"], ["a"]):
                assert "newline" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"
