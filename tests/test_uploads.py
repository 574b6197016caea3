"""What a browser sends comes in as a set, checked, under names that stay in their folder; nothing is overwritten."""

import io
import shutil
import stat
import zipfile

import pytest
from conftest import ROOT
from other_hand import drawings

from app import uploads
from app.uploads import bring_files, bring_folder, clean_path, last_brought, sets, unpack
from tattoo_lora.errors import UserError

DRAWINGS = drawings(4)
SUN, MOON, STAR, LEAF = DRAWINGS.values()


class File(io.BytesIO):
    """As Streamlit hands a file over."""

    def __init__(self, name, content):
        super().__init__(content)
        self.name, self.size = name, len(content)


def archive(entries, name="drawings.zip", **options):
    """A zip of (name, content), as a file that was sent."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, **options) as zipped:
        for entry, content in entries:
            zipped.writestr(entry, content)
    return File(name, packed.getvalue())


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def root(tmp_path):
    """A project as far as preprocess reads one."""
    root = tmp_path / "p"
    (root / "data/raw/flash").mkdir(parents=True)
    (root / "data/raw/flash/owl.png").write_bytes(b"sample")
    shutil.copytree(ROOT / "profiles", root / "profiles")
    shutil.copy(ROOT / "params.yaml", root)
    for name in ("stages", "tattoo_lora"):
        (root / name).symlink_to(ROOT / name)
    return root


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("owl.png", "owl.png"),
        ("a/b/owl.png", "a/b/owl.png"),
        ("a\\b\\owl.png", "a/b/owl.png"),
        ("./a//owl.png", "a/owl.png"),
        ("u\u0308ber.png", "über.png"),
        ("纹身.png", "纹身.png"),
        ('<img src="x">.png', "-img src=-x--.png"),
        ("a\u202egnp.png", "a-gnp.png"),
        ("a\nb.png", "a-b.png"),
        ("x" * 300 + ".png", "x" * 80 + ".png"),
        ("owl.txt", "owl.txt"),
        ("rights.csv", "rights.csv"),
    ],
)
def test_a_name_stays_in_its_folder_and_readable(name, path):
    assert clean_path(name).as_posix() == path


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../owl.png", "its path leads out of the folder"),
        ("a/../../owl.png", "its path leads out of the folder"),
        ("..\\owl.png", "its path leads out of the folder"),
        ("/etc/owl.png", "its path leads out of the folder"),
        ("C:\\owl.png", "its path leads out of the folder"),
        ("", "its path leads out of the folder"),
        (".DS_Store", "hidden"),
        ("__MACOSX/owl.png", "hidden"),
        ("a/.git/owl.png", "hidden"),
        ("a/" * 9 + "owl.png", "more than 8 folders deep"),
        ("params.yaml", "no picture by its ending"),
        ("a/rights.csv", "no picture by its ending"),
    ],
)
def test_a_name_that_leads_elsewhere_is_left_out(tmp_path, name, why):
    with pytest.raises(ValueError, match=why):
        clean_path(name)
    assert unpack([File(name, b"x"), archive([(name or "..", b"x")])], tmp_path)[0] == (name, why)
    assert files(tmp_path) == {}


def test_files_and_zips_come_in_with_their_folders_and_texts(tmp_path):
    zipped = archive([("b/moon.png", MOON), ("b/moon.txt", b"a moon"), ("b/", b"")])
    assert unpack([File("sun.png", SUN), File("sun.txt", b"a sun"), zipped], tmp_path) == []
    expected = {"sun.png": SUN, "sun.txt": b"a sun", "b/moon.png": MOON, "b/moon.txt": b"a moon"}
    assert files(tmp_path) == expected


def test_files_of_one_name_both_come_in_each_with_its_text(tmp_path):
    sent = [
        File("sun.png", SUN),
        File("sun.txt", b"a sun"),
        File("sun.png", MOON),
        archive([("Sun.png", STAR), ("Sun.txt", b"a star")]),
        archive([("sun.png", SUN)]),
    ]
    assert unpack(sent, tmp_path) == [("sun.png", "the same file is there already")]
    assert files(tmp_path) == {
        "sun.png": SUN,
        "sun.txt": b"a sun",
        "sun-2.png": MOON,
        "Sun-3.png": STAR,
        "Sun-3.txt": b"a star",
    }


def test_names_in_a_zip_that_does_not_say_how_they_are_written_are_read_as_utf_8(tmp_path):
    packed = archive([("纹身.png", SUN)]).getvalue()
    flagless = packed.replace(b"\x00\x08", b"\x00\x00")  # the flag of UTF-8, in both headers
    unpack([File("a.zip", flagless)], tmp_path)
    assert list(files(tmp_path)) == ["纹身.png"]


def link(name, target):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


def test_links_passwords_archives_and_broken_ones_are_left_out_with_their_reason(tmp_path):
    encrypted = bytearray(archive([("star.png", STAR)]).getvalue())
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    broken = bytearray(archive([("leaf.png", LEAF)]).getvalue())
    broken[60] ^= 255
    sent = [
        archive([link("sun.png", "/etc/passwd"), ("inner.zip", b"x")]),
        File("locked.zip", bytes(encrypted)),
        File("none.zip", b"no zip"),
        File("broken.zip", bytes(broken)),
    ]
    left_out = dict(unpack(sent, tmp_path))
    assert left_out.pop("leaf.png").startswith("unreadable: ")
    assert left_out == {
        "sun.png": "a link",
        "inner.zip": "an archive in an archive",
        "star.png": "needs a password",
        "none.zip": "no zip that can be read",
    }
    assert files(tmp_path) == {}


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_BYTES", 10**6)
    bomb = archive([("a.png", b"\0" * 600_000), ("b.png", b"\0" * 600_000)])
    assert bomb.size < 3000
    with pytest.raises(UserError, match=r"0.0 GB unpacked, allowed at once are 0.0; send them in parts"):
        unpack([bomb], tmp_path)
    # One that lies about its size is cut there, and its checksum fails.
    lying = bytearray(archive([("a.png", b"\0" * 600_000)]).getvalue())
    at = lying.index(b"PK\1\2") + 24
    lying[at : at + 4] = (10).to_bytes(4, "little")
    assert dict(unpack([File("a.zip", bytes(lying))], tmp_path))["a.png"].startswith("unreadable")
    assert files(tmp_path) == {}


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_FILES", 2)
    three = [(f"{i}.png", b"x") for i in range(3)]
    for sent in ([File(*pair) for pair in three], [archive(three)], [archive(three[:2]), File(*three[2])]):
        with pytest.raises(UserError, match="3 files, allowed at once are 2; send them in parts"):
            unpack(sent, tmp_path)
    assert files(tmp_path) == {}


def test_a_set_comes_in_checked_with_its_contact_sheet_and_without_what_is_no_drawing(root):
    sent = [File(name, content) for name, content in DRAWINGS.items()]
    sent += [File("bad.png", b"\x89PNG broken"), File("bad.txt", b"a caption"), File("again.png", SUN)]
    brought = bring_files(sent, "Anna's hand!", root)
    assert brought.dataset == "Anna-s-hand" and brought.drawings == 5
    raw = root / "data/raw/Anna-s-hand"
    assert files(raw) == DRAWINGS | {"again.png": SUN}
    assert [name for name, _ in brought.left_out] == ["bad.png", "sun.png"]
    assert brought.left_out[0][1] == "no picture in a format that is read"
    assert "again.png" in brought.left_out[1][1]
    assert (root / brought.sheet).read_bytes().startswith(b"\x89PNG")
    assert last_brought("Anna-s-hand", root) == brought
    assert list((root / ".scratch/uploads").iterdir()) == []


def test_a_set_of_a_taken_name_gets_another_and_more_can_come_into_one(root):
    first = bring_files([File("sun.png", SUN)], "flash", root)
    assert first.dataset == "flash-2" and (root / "data/raw/flash/owl.png").read_bytes() == b"sample"
    more = [File("sun.png", MOON), File("star.png", STAR)]
    assert bring_files(more, "ignored", root, into="flash-2").drawings == 2
    assert files(root / "data/raw/flash-2") == {"sun.png": SUN, "sun-2.png": MOON, "star.png": STAR}
    assert sets(root) == ["flash", "flash-2"]


@pytest.mark.parametrize(
    ("sent", "into", "message"),
    [
        ([], None, "nothing came in: it is empty"),
        ([File("a.md", b"x"), File("b.md", b"x")], None, "nothing came in: a.md: no picture by its ending, and 1 more"),
        ([File("a.png", b"x")], None, "no drawing is among them: a.png: no picture in a format that is read"),
        ([File("a.png", SUN)], "../p", r"data/raw/\.\./p: no such set"),
    ],
)
def test_what_holds_no_drawing_makes_no_set(root, sent, into, message):
    with pytest.raises(UserError, match=message):
        bring_files(sent, "mine", root, into)
    assert sets(root) == ["flash"]


def test_a_stage_that_cannot_look_is_passed_on(root):
    (root / "params.yaml").write_text("dataset: x\n")
    with pytest.raises(UserError, match="the drawings cannot be checked: params.yaml: .*missing"):
        bring_files([File("sun.png", SUN)], "mine", root)


def test_a_link_in_a_set_leads_nowhere(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "data/raw/flash/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of the folder by a link; remove the link"):
        bring_files([archive([("sub/sun.png", SUN)])], "", root, into="flash")
    assert files(tmp_path / "elsewhere") == {}


def test_a_folder_of_this_machine_comes_in_as_the_command_line_brings_it(root, tmp_path):
    (tmp_path / "hand").mkdir()
    for name, content in DRAWINGS.items():
        (tmp_path / "hand" / name).write_bytes(content)
    (tmp_path / "hand/notes.md").write_text("x")
    brought = bring_folder(f" {tmp_path}/hand ", root)
    assert (brought.dataset, brought.drawings) == ("hand", 4)
    assert ("notes.md", "no picture by its ending") in brought.left_out
    assert files(root / "data/raw/hand") == DRAWINGS | {"notes.md": b"x"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "no folder: write the folder's whole path, from / on"),
        ("hand", "hand: write the folder's whole path, from / on"),
        ("/nowhere/hand", "/nowhere/hand: no such folder"),
    ],
)
def test_a_path_that_is_no_folder_is_refused(root, path, message):
    with pytest.raises(UserError, match=message):
        bring_folder(path, root)


def test_a_folder_of_too_many_files_is_refused_before_any_is_copied(root, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_FILES", 2)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    with pytest.raises(UserError, match="3 files, allowed at once are 2"):
        bring_folder(str(tmp_path), root)
    assert sets(root) == ["flash"]


def test_what_a_killed_server_left_goes_after_a_day(root, monkeypatch):
    old = root / ".scratch/uploads/old"
    old.mkdir(parents=True)
    monkeypatch.setattr(uploads, "OLD", -1)
    bring_files([File("sun.png", SUN)], "mine", root)
    assert not old.exists()


def test_half_written_news_of_a_set_is_none(root):
    assert last_brought("flash", root) is None
    (root / ".scratch/sets/flash").mkdir(parents=True)
    (root / ".scratch/sets/flash/brought.json").write_text("{")
    assert last_brought("flash", root) is None
