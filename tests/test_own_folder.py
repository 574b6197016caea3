"""A user's folder comes in whole, and costs no other folder a byte."""

import os

import pytest
import yaml
from conftest import ROOT

from app.own_folder import as_yaml, bring_in, named_drawings, read_setting, set_key, set_params
from tattoo_lora.errors import UserError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "p/data/raw/flash").mkdir(parents=True)
    (tmp_path / "p/data/raw/flash/owl.png").write_bytes(b"sample")
    return tmp_path / "p"


def folder(path, **files):
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.png").write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2024", "2024"),
        ("no", "no"),
        ("My flash ü", "My-flash-ü"),
        ("纹身", "纹身"),
        ("рисунки", "рисунки"),
        ("!!", "drawings"),
        ("Nul", "Nul-drawings"),  # Windows would not make it
        ("end...", "end"),
    ],
)
def test_a_folder_keeps_its_name_as_far_as_a_shell_allows(root, tmp_path, name, expected):
    assert bring_in(folder(tmp_path / name, owl=b"1"), root) == expected
    assert (root / f"data/raw/{expected}/owl.png").read_bytes() == b"1"


def test_a_folder_called_as_one_that_is_there_gets_another_name(root, tmp_path):
    mine = folder(tmp_path / "flash", owl=b"mine")
    (mine / "rights.csv").write_text("file,license\n*,mine\n")
    assert bring_in(mine, root) == "flash-2"
    assert bring_in(mine, root) == "flash-2"  # remembered
    assert bring_in(folder(tmp_path / "b/flash", owl=b"other"), root) == "flash-3"
    assert [path.name for path in (root / "data/raw/flash").iterdir()] == ["owl.png"]
    assert (root / "data/raw/flash/owl.png").read_bytes() == b"sample"


def test_only_what_is_new_or_newer_is_copied_and_edits_of_the_copy_stay(root, tmp_path, capsys):
    mine = folder(tmp_path / "mine", owl=b"1", rose=b"1", wolf=b"1")
    copy = root / "data/raw" / bring_in(mine, root)
    (copy / "owl.txt").write_text("my owl")
    (copy / "rose.png").write_bytes(b"edited")
    (mine / "wolf.png").write_bytes(b"newer")
    os.utime(mine / "wolf.png", (2e9, 2e9))
    folder(mine, fox=b"1")
    assert bring_in(mine, root) == "mine"
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        "owl.png": b"1",
        "owl.txt": b"my owl",
        "rose.png": b"edited",
        "wolf.png": b"newer",
        "fox.png": b"1",
    }
    assert "2 files copied to data/raw/mine, 2 were there already." in capsys.readouterr().out


def test_a_copy_that_nobody_remembers_is_known_by_its_bytes(root, tmp_path):
    mine = folder(tmp_path / "mine", owl=b"1", rose=b"2")
    folder(root / "data/raw/mine", owl=b"1")
    assert bring_in(mine, root) == "mine"
    assert (root / "data/raw/mine/rose.png").read_bytes() == b"2"


def test_links_that_lead_nowhere_or_to_folders_are_left_out(root, tmp_path):
    mine = folder(tmp_path / "mine", owl=b"1")
    (mine / "gone.png").symlink_to("nowhere.png")
    (mine / "loop").symlink_to(mine)
    (mine / "rose.png").symlink_to("owl.png")
    copy = root / "data/raw" / bring_in(mine, root)
    assert sorted(path.name for path in copy.iterdir()) == ["owl.png", "rose.png"]
    assert not (copy / "rose.png").is_symlink()


def test_a_linked_copy_is_replaced_and_not_written_into(root, tmp_path):
    mine = folder(tmp_path / "mine", owl=b"1")
    copy = root / "data/raw" / bring_in(mine, root) / "owl.png"
    os.link(copy, tmp_path / "cache")
    (mine / "owl.png").write_bytes(b"2")
    os.utime(mine / "owl.png", (2e9, 2e9))
    bring_in(mine, root)
    assert (copy.read_bytes(), (tmp_path / "cache").read_bytes()) == (b"2", b"1")


@pytest.mark.parametrize(
    ("path", "message"),
    [("none", "no such folder"), ("empty", "no files in it"), (".", "holds or is part of data/raw")],
)
def test_what_is_no_folder_of_drawings_is_refused(root, tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        bring_in(tmp_path / path, root)


def test_names_that_say_something_are_counted(tmp_path):
    mine = folder(tmp_path / "mine", owl=b"1", IMG_1=b"1", **{"心脏": b"1"})
    (mine / "notes.txt").write_text("x")
    (mine / ".hidden.png").write_text("x")
    (mine / "away.png").symlink_to(tmp_path / "elsewhere.png")
    assert named_drawings(mine) == (2, 3)


@pytest.mark.parametrize(
    "value", ["flash", "2024", "no", "null", "1e5", "0x1f", "纹身", 'my "flash"', "a: b", "a #b", "~"]
)
@pytest.mark.parametrize("before", ["flash", '"my flash"', "'it''s # it'", "my flash", "a#b"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_key_is_set_and_no_other_byte(tmp_path, value, before, end):
    path = tmp_path / "params.yaml"
    text = f"# dataset: x{end}dataset: {before}   # a folder{end}section:{end}  dataset: y  # z{end}last: 1{end}"
    path.write_bytes(text.encode())
    set_key(path, "dataset", value)
    assert path.read_bytes().decode() == text.replace(f"dataset: {before} ", f"dataset: {as_yaml(value)} ", 1)
    assert yaml.safe_load(path.read_bytes())["dataset"] == value
    set_key(path, "section.dataset", value)
    assert path.read_bytes().decode().endswith(f"  dataset: {as_yaml(value)}  # z{end}last: 1{end}")


def test_a_value_over_several_lines_is_left_to_the_user(tmp_path):
    (tmp_path / "params.yaml").write_text("dataset: >-\n  flash\n")
    with pytest.raises(UserError, match="dataset is written in a way that is not understood; set it to x by hand"):
        set_key(tmp_path / "params.yaml", "dataset", "x")
    assert (tmp_path / "params.yaml").read_text() == "dataset: >-\n  flash\n"


NESTED = (
    "variants:   # x\n\n  # y\n  vanilla:\n    trigger: ''  # a\n  blip:\n    trigger: ''\ntrain: {rank: 8}\nrank: 1\n"
)


def test_a_key_two_sections_deep_is_set_in_its_own_section(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(NESTED)
    set_key(path, "variants.blip.trigger", "my hand")
    assert path.read_text() == NESTED.replace("    trigger: ''\n", '    trigger: "my hand"\n')
    set_key(path, "rank", 2)
    assert path.read_text().endswith("train: {rank: 8}\nrank: 2\n")


@pytest.mark.parametrize("value", [8, 8.0, 2.5e-05, 1e-3, 1e22, None, True, [7, 8], "8"])
def test_a_value_is_read_as_it_was_set(tmp_path, value):
    path = tmp_path / "params.yaml"
    path.write_text("section:\n  key: x  # y\n")
    set_key(path, "section.key", value)
    kept = yaml.safe_load(path.read_text())["section"]["key"]
    assert kept == value and type(kept) is type(value) and path.read_text().endswith("  # y\n")


@pytest.mark.parametrize("key", ["none", "none.key", "variants.none.trigger", "rank.key"])
def test_a_key_that_is_not_there_is_named(tmp_path, key):
    (tmp_path / "params.yaml").write_text(NESTED)
    with pytest.raises(UserError, match=f"params.yaml: there is no {key} in it"):
        set_key(tmp_path / "params.yaml", key, 1)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("train.rank=4", ("params.yaml", "train.rank", 4)),
        ("profiles/sd15.yaml:train.learning_rate=1.0e-4", ("profiles/sd15.yaml", "train.learning_rate", 1e-4)),
        ("variants.blip.trigger=my hand", ("params.yaml", "variants.blip.trigger", "my hand")),
        ("evaluate.seeds=[7, 8]", ("params.yaml", "evaluate.seeds", [7, 8])),
    ],
)
def test_a_setting_is_written_as_dvc_takes_it(text, setting):
    assert read_setting(text) == setting


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank", "-S rank: write KEY=VALUE"),
        ("/etc/x.yaml:a=1", "write KEY=VALUE"),
        ("profiles/../x.yaml:a=1", "write KEY=VALUE"),
        ("train.rank=[", "the value is no YAML"),
    ],
)
def test_what_is_no_setting_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_setting(text)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("params.yaml", "train.rank", 0), "train.rank: found 0"),
        (("params.yaml", "train.nothing", 4), "there is no train.nothing"),
        (("profiles/none.yaml", "resolution", 64), "none.yaml: no such profile"),
        (("profiles/embedded.yaml", "resolution", 3), "resolution: found 3"),
    ],
)
def test_nothing_is_changed_if_one_setting_is_not_allowed(tmp_path, setting, message):
    for name in ("params.yaml", "profiles/embedded.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    with pytest.raises(UserError, match=message):
        set_params(tmp_path, [("params.yaml", "train.seed", 7), setting])
    assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    set_params(tmp_path, [("params.yaml", "train.seed", 7)])
    assert "  seed: 7\n" in (tmp_path / "params.yaml").read_text()
