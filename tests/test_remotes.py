"""DVC remotes with real servers on loopback: docs/remotes.md, as run, and what happens when something is wrong.

A small DVC project stands for ours where only the transfer matters; ours is pushed to a folder and pulled in a clone.
"""

import getpass
import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import yaml
from conftest import ENVIRONMENT, commit, copy_project, run
from servers import PASSWORD, SSHD, USER, s3_keys, serve_s3, serve_sftp, serve_sshd, serve_webdav
from test_dag import ran, set_variant

pytestmark = pytest.mark.slow  # half a minute each: `pytest -n 0 -m slow tests/test_remotes.py`, as .ci/remotes does

BUCKET = "tattoo"
DRAW = """
import random, sys
from pathlib import Path
draws = random.Random(7)
Path("drawings").mkdir()
for i in range(int(sys.argv[1])):
    Path(f"drawings/{i:03}.png").write_bytes(draws.randbytes(100_000))
Path("adapter.safetensors").write_bytes(draws.randbytes(3_000_000))
"""
DRAWINGS = 40


def make_small(folder: Path) -> Path:
    """A project whose one stage writes a folder of drawings and an adapter, run and committed."""
    folder.mkdir()
    run("git", "init", "-q", cwd=folder)
    run("dvc", "init", "-q", cwd=folder)
    (folder / "draw.py").write_text(DRAW)
    stage = {"cmd": f"python draw.py {DRAWINGS}", "deps": ["draw.py"], "outs": ["drawings", "adapter.safetensors"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"draw": stage}}))
    run("dvc", "repro", "-q", cwd=folder)
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def small_once(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("once") / "small")


@pytest.fixture
def small(small_once, tmp_path):
    return copy_project(small_once, tmp_path / "small")


class Remote:
    """A server, and the lines of docs/remotes.md that set DVC up for it; `secrets` go to --local."""

    def __init__(self, kind: str, folder: Path, stack: ExitStack):
        self.kind, self.store, self.stack = kind, folder / "store", stack
        self.store.mkdir()
        if kind == "s3":
            self.server, key, secret = stack.enter_context(serve_s3(BUCKET))
            self.url = f"s3://{BUCKET}/project"
            self.settings = {"endpointurl": f"http://127.0.0.1:{self.server.port}", "region": "us-east-1"}
            self.secrets = {"access_key_id": key, "secret_access_key": secret}
            self.list = partial(s3_keys, self.server.port, key, secret, BUCKET)
        elif kind == "openssh":
            self.server, key = stack.enter_context(serve_sshd(folder))
            self.url = f"ssh://127.0.0.1:{self.server.port}{self.store}/project"
            self.settings = {"user": getpass.getuser()}
            self.secrets = {"keyfile": str(key)}
        else:
            serve = {"ssh": serve_sftp, "webdav": serve_webdav}[kind]
            self.server = stack.enter_context(serve(self.store))
            self.url = f"{kind}://127.0.0.1:{self.server.port}/project"
            self.settings = {"user": USER}
            self.secrets = {"password": PASSWORD}
            self.list = lambda: [path for path in self.store.rglob("*") if path.is_file()]
            if kind == "webdav":
                self.settings["verify"] = "true"
                self.empty()

    def empty(self) -> None:
        """Take all that is on a WebDAV server away; the base collection has to be there."""
        shutil.rmtree(self.store / "project", ignore_errors=True)
        (self.store / "project").mkdir()

    def start_again(self) -> None:
        serve = {"ssh": serve_sftp, "webdav": serve_webdav}[self.kind]
        self.server = self.stack.enter_context(serve(self.store, self.server.port))

    def set_up(self, project: Path, **secrets: str) -> None:
        run("dvc", "remote", "add", "-f", "-d", "there", self.url, cwd=project)
        for key, value in self.settings.items():
            run("dvc", "remote", "modify", "there", key, value, cwd=project)
        self.let_in(project, **secrets)

    def let_in(self, project: Path, **secrets: str) -> None:
        for key, value in (self.secrets | secrets).items():
            run("dvc", "remote", "modify", "--local", "there", key, value, cwd=project)

    def arrived(self) -> int:
        """How many files are there."""
        return len(self.list())

    def wait_for(self, files: int) -> None:
        until = time.monotonic() + 30
        while self.arrived() < files:
            assert time.monotonic() < until, "nothing arrives"
            time.sleep(0.01)


without_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd here: `apt-get install openssh-server`")


@pytest.fixture(params=["ssh", pytest.param("openssh", marks=without_sshd), "s3", "webdav"])
def remote(request, tmp_path):
    with ExitStack() as stack:
        yield Remote(request.param, tmp_path, stack)


def contents(project: Path) -> dict[str, bytes]:
    files = [*(project / "drawings").iterdir(), project / "adapter.safetensors"]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in files}


def clone(project: Path, target: Path) -> Path:
    run("git", "clone", "-q", str(project), str(target), cwd=project)
    return target


def wipe(project: Path) -> None:
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / "drawings")
    (project / "adapter.safetensors").unlink()


def said(result) -> str:
    """DVC's own line about what went wrong; a failure with nothing but a traceback fails here."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return next(line for line in result.stderr.splitlines() if line.startswith("ERROR: "))


def test_what_is_pushed_comes_back_to_the_byte_and_no_secret_lands_in_git(small, remote, tmp_path):
    before = contents(small)
    remote.set_up(small)
    commit(small)
    run("dvc", "push", "-q", "--run-cache", cwd=small)
    wipe(small)
    run("dvc", "pull", "-q", cwd=small)
    assert contents(small) == before

    fresh = clone(small, tmp_path / "fresh")
    remote.let_in(fresh)
    run("dvc", "pull", "-q", cwd=fresh)
    assert contents(fresh) == before
    assert json.loads(run("dvc", "status", "--json", cwd=fresh).stdout) == {}

    # The run-cache too: a lock file that is lost costs no second run.
    assert not (fresh / ".dvc/cache/runs").exists()
    (fresh / "dvc.lock").unlink()
    run("dvc", "pull", "-q", "--run-cache", cwd=fresh, check=False)
    assert ran(run("dvc", "repro", cwd=fresh)) == set()
    run("git", "checkout", "-q", "dvc.lock", cwd=fresh)

    for secret in remote.secrets.values():
        assert run("git", "grep", "-F", secret, cwd=small, check=False).returncode == 1
        assert secret in (small / ".dvc/config.local").read_text()
    assert run("git", "status", "--porcelain", "--ignored=no", cwd=small).stdout == ""


def push_to_the_middle(project: Path, remote) -> subprocess.Popen:
    """A push of one file at a time, under way: some have arrived."""
    remote.set_up(project)
    commit(project)
    command = ["dvc", "push", "-j", "1"]
    push = subprocess.Popen(
        command, cwd=project, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    remote.wait_for(5)
    return push


@pytest.mark.parametrize("remote", ["ssh", "webdav"], indirect=True)
def test_a_push_whose_server_dies_is_repeated_and_nothing_is_lost(small, remote, tmp_path):
    before = contents(small)
    push = push_to_the_middle(small, remote)
    remote.server.kill()
    _, stderr = push.communicate(timeout=60)
    assert push.returncode != 0 and "ERROR: " in stderr
    assert 0 < remote.arrived() < DRAWINGS

    remote.start_again()
    if remote.kind == "webdav":
        remote.empty()  # half a file may lie there under its name: docs/remotes.md
    run("dvc", "push", "-q", cwd=small)
    fresh = clone(small, tmp_path / "fresh")
    remote.let_in(fresh)
    run("dvc", "pull", "-q", cwd=fresh)
    assert contents(fresh) == before


@pytest.mark.parametrize("remote", ["webdav"], indirect=True)
def test_half_a_file_on_the_server_is_noticed_and_sent_anew_once_the_folder_is_empty(small, remote, tmp_path):
    before = contents(small)
    remote.set_up(small)
    commit(small)
    run("dvc", "push", "-q", cwd=small)
    largest = max(remote.list(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    run("dvc", "push", "-q", cwd=small)  # DVC goes by the names alone
    fresh = clone(small, tmp_path / "fresh")
    remote.let_in(fresh)
    failed = run("dvc", "pull", cwd=fresh, check=False)
    assert failed.returncode != 0 and "missing-files" in failed.stderr
    assert not (fresh / "adapter.safetensors").exists()

    remote.empty()
    run("dvc", "push", "-q", cwd=small)
    run("dvc", "pull", "-q", cwd=fresh)
    assert contents(fresh) == before


@pytest.mark.parametrize("remote", ["s3"], indirect=True)
def test_a_push_that_is_stopped_is_repeated_and_nothing_is_lost(small, remote, tmp_path):
    before = contents(small)
    push = push_to_the_middle(small, remote)
    push.kill()
    push.communicate()
    assert remote.arrived() < DRAWINGS, "the push was over before it was stopped"
    run("dvc", "push", "-q", cwd=small)
    fresh = clone(small, tmp_path / "fresh")
    remote.let_in(fresh)
    run("dvc", "pull", "-q", cwd=fresh)
    assert contents(fresh) == before


@pytest.mark.parametrize(
    ("remote", "secret", "answer"),
    [
        ("s3", "secret_access_key", "403"),
        ("webdav", "password", "401"),
        ("ssh", "password", f"{USER}@127.0.0.1's pass"),
    ],
    indirect=["remote"],
)
def test_a_wrong_secret_is_refused_and_not_shown(small, remote, secret, answer):
    """SSH asks for the password anew; here nobody answers."""
    remote.set_up(small, **{secret: "not-the-secret"})
    result = run("dvc", "push", cwd=small, check=False)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert answer in result.stderr
    assert "not-the-secret" not in result.stderr + result.stdout


@pytest.mark.parametrize("remote", ["webdav"], indirect=True)
def test_a_folder_that_is_not_there_is_said(small, remote):
    (remote.store / "project").rmdir()
    remote.set_up(small)
    assert "could not be found in the server" in said(run("dvc", "push", cwd=small, check=False))


@pytest.mark.parametrize("remote", ["s3"], indirect=True)
def test_a_bucket_that_is_not_there_is_named(small, remote):
    remote.url = "s3://nowhere/project"
    remote.set_up(small)
    assert "The specified bucket does not exist" in said(run("dvc", "push", cwd=small, check=False))


def test_a_full_disk_is_named_and_the_push_repeated_elsewhere(small, tmp_path):
    store = tmp_path / "disk"
    store.mkdir()
    run("dvc", "remote", "add", "-d", "there", str(store), cwd=small)
    mount = f"mount -t tmpfs -o size=2m none {store}"
    inside = ["unshare", "-rm", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*inside, mount], capture_output=True).returncode != 0:
        pytest.skip("needs `unshare -rm`, to mount a small disk without being root")
    result = run(*inside, f"{mount} && dvc push", cwd=small, check=False)
    assert result.returncode != 0
    assert "No space left on device" in result.stderr
    run("dvc", "push", "-q", cwd=small)
    wipe(small)
    run("dvc", "pull", "-q", cwd=small)
    assert len(contents(small)) == DRAWINGS + 1


def test_a_plugin_that_is_not_installed_is_named(small):
    run("dvc", "remote", "add", "-d", "there", "azure://container/project", cwd=small)
    if run(sys.executable, "-c", "import dvc_azure", cwd=small, check=False).returncode == 0:
        pytest.skip("dvc-azure is installed here")
    assert "dvc-azure" in run("dvc", "push", cwd=small, check=False).stderr


@pytest.fixture(scope="module")
def pushed(finished, tmp_path_factory):
    """The finished small project, pushed to the folder beside it that .dvc/config names."""
    project = copy_project(finished, tmp_path_factory.mktemp("pushed") / "one/project")
    run("dvc", "push", "-q", "--run-cache", cwd=project)
    assert (project.parent / "tattoo-lora-store").is_dir()
    return project


def test_a_clone_beside_the_store_has_all_results_without_training(pushed):
    fresh = clone(pushed, pushed.parent / "fresh")
    run("dvc", "pull", "-q", cwd=fresh)
    assert json.loads(run("dvc", "status", "--json", cwd=fresh).stdout) == {}
    for variant in ("vanilla", "blip", "blip_plus"):
        path = f"runs/lora/{variant}/best.safetensors"
        assert (fresh / path).read_bytes() == (pushed / path).read_bytes()
        assert (fresh / f"metrics/{variant}.json").is_file()
    assert "Nothing to do: everything is up to date." in run("python", "main.py", cwd=fresh).stdout


def test_a_clone_retrains_what_is_stale_and_pulls_the_rest(pushed):
    fresh = clone(pushed, pushed.parent / "retrained")
    set_variant(fresh, "blip_plus", "caption_dropout", 0.2)
    repro = run("dvc", "repro", "--pull", "--allow-missing", cwd=fresh)
    assert ran(repro) == {"train@blip_plus", "evaluate@blip_plus", "report"}


def test_a_clone_without_the_store_says_so_and_can_still_run(pushed, tmp_path):
    fresh = clone(pushed, tmp_path / "alone/project")
    pull = run("dvc", "pull", cwd=fresh, check=False)
    assert pull.returncode != 0 and "Traceback" not in pull.stderr
    assert "missing" in pull.stderr.lower() or "not exist" in pull.stderr.lower()
    assert "preprocess" in ran(run("dvc", "repro", "preprocess", cwd=fresh))


def test_an_adapter_is_registered_assigned_and_fetched_from_a_git_remote(finished, tmp_path):
    """docs/releasing.md, with a bare Git repository and a DVC remote on disk."""
    copy = copy_project(finished, tmp_path / "p")
    bare, store, elsewhere = tmp_path / "bare.git", tmp_path / "store", tmp_path / "elsewhere"
    run("git", "init", "-q", "--bare", str(bare), cwd=tmp_path)
    run("git", "remote", "add", "origin", str(bare), cwd=copy)
    run("dvc", "remote", "modify", "beside", "url", str(store), cwd=copy)
    commit(copy)
    run("gto", "register", "blip_plus", "--version", "v1.0.0", cwd=copy)
    run("gto", "assign", "blip_plus", "--version", "v1.0.0", "--stage", "prod", cwd=copy)
    branch = run("git", "branch", "--show-current", cwd=copy).stdout.strip()
    run("git", "push", "-q", "--tags", "origin", branch, cwd=copy)
    run("git", "symbolic-ref", "HEAD", f"refs/heads/{branch}", cwd=bare)
    run("dvc", "push", "-q", cwd=copy)
    elsewhere.mkdir()
    for which in (["--stage", "prod"], ["--rev", "v1.0.0"]):
        out = f"adapter{which[1]}"
        run("dvc", "artifacts", "get", str(bare), "blip_plus", *which, "-o", out, cwd=elsewhere)
        for name in ("best", "best.kohya", "final", "final.kohya"):
            fetched = (elsewhere / out / f"{name}.safetensors").read_bytes()
            assert fetched == (copy / f"runs/lora/blip_plus/{name}.safetensors").read_bytes()
