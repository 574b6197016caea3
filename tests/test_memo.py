"""What the memo keeps, under which key, and what a write that stops leaves behind."""

import os

import pytest
from conftest import ROOT, room_for

import tattoo_lora.keys
from tattoo_lora.keys import code_files, content_key, model_key, result_key
from tattoo_lora.memo import Memo
from tattoo_lora.params import Model


@pytest.fixture
def memo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Memo("test")


def test_what_was_written_is_read_by_its_key_and_suffix(memo):
    memo.write("ab12", ".txt", b"one")
    assert memo.read("ab12", ".txt") == b"one"
    assert memo.read("ab12", ".png") is None and memo.read("ab13", ".txt") is None
    memo.write("ab12", ".txt", b"other")
    assert memo.read("ab12", ".txt") == b"other"
    assert Memo("another").read("ab12", ".txt") is None


def test_a_write_that_stops_in_the_middle_leaves_nothing_or_what_was_there(memo):
    for before in (None, b"whole"):
        if before:
            memo.write("ab12", ".png", before)
        with room_for(1000), pytest.raises(OSError):
            memo.write("ab12", ".png", bytes(5000))
        assert memo.read("ab12", ".png") == before


def test_each_value_and_their_order_count_for_the_key():
    keys = [content_key(*values) for values in ((1, 2), (2, 1), (1,), (1, "2"), (1, None), (12,))]
    assert len(set(keys)) == len(keys)
    assert content_key(1, 2) == keys[0]


def test_a_model_is_known_by_its_contents_and_not_by_its_path_or_time(tmp_path, monkeypatch):
    monkeypatch.setattr("tattoo_lora.keys.LARGE", 0)  # the hashes of large files are kept
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet/model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    key = model_key(Model("a", None))
    os.utime("b/unet/model.safetensors", (1, 1))
    assert model_key(Model("b", None)) == model_key(Model(str(tmp_path / "a"), None)) == key
    (tmp_path / "b/unet/model.safetensors").write_bytes(b"wEights")
    assert model_key(Model("b", None)) != key
    (tmp_path / "b/more").touch()
    (tmp_path / "b/unet/model.safetensors").write_bytes(b"weights")
    assert model_key(Model("b", None)) != key  # there is one file more
    assert model_key(Model("owner/name", "1")) != model_key(Model("owner/name", "2"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A project: a stage that imports one module, which imports another, and a module that none imports."""
    monkeypatch.setattr(tattoo_lora.keys, "ROOT", tmp_path)
    for path, text in {
        "stages/one.py": "from tattoo_lora.data.near import x\nfrom tattoo_lora.errors import y",
        "tattoo_lora/data/near.py": "def late():\n    import tattoo_lora.data.far",
        "tattoo_lora/data/far.py": "a = 1",
        "tattoo_lora/errors.py": "y = 1",
        "tattoo_lora/data/other.py": "b = 1",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def fresh_key(package, *values, files=()):
    for kept in (tattoo_lora.keys.imported_files, tattoo_lora.keys.code_hash):
        kept.cache_clear()
    return result_key(str(package / "stages/one.py"), *values, files=files)


def test_a_result_is_kept_as_long_as_its_code_values_files_and_packages_stay(package, monkeypatch):
    data = package / "data"
    data.write_text("1")
    key = fresh_key(package, 1, files=[data])
    assert fresh_key(package, 1, files=[data]) == key
    assert fresh_key(package, 2, files=[data]) != key
    data.write_text("2")
    assert fresh_key(package, 1, files=[data]) != key
    data.write_text("1")
    for other in ("data/other", "errors"):
        (package / f"tattoo_lora/{other}.py").write_text("z = 2")
        assert fresh_key(package, 1, files=[data]) == key
    (package / "tattoo_lora/data/far.py").write_text("a = 2")
    assert fresh_key(package, 1, files=[data]) != key
    (package / "tattoo_lora/data/far.py").write_text("a = 1")
    monkeypatch.setattr(tattoo_lora.keys.metadata, "version", lambda name: "2" if name == "transformers" else "1")
    assert fresh_key(package, 1, files=[data]) != key


def test_captions_depend_on_the_code_that_loads_and_prepares_them():
    for stage, modules in {"caption_blip": {"models", "images"}, "encode": {"models", "images"}}.items():
        assert modules <= {path.stem for path in code_files(ROOT / f"stages/{stage}.py")}
