"""Servers on loopback that DVC pushes to, each a process of its own.

SFTP by asyncssh, and by OpenSSH's sshd where it is installed; S3 by moto; WebDAV by wsgidav.

with serve_sftp(folder) as server:
    server.url, server.process, USER, PASSWORD
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD = "tattoo", "line-art-s3cret"

SFTP = """
import asyncio, sys
import asyncssh

port, folder, user, password = sys.argv[1:]

class Server(asyncssh.SSHServer):
    def validate_password(self, username, given):
        return (username, given) == (user, password)

    def password_auth_supported(self):
        return True

async def main():
    await asyncssh.listen(
        "127.0.0.1", int(port), server_factory=Server,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=folder),
    )
    await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Server:
    port: int
    process: subprocess.Popen

    def kill(self) -> None:
        """As a machine that loses power: nothing is finished or answered."""
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(port: int, *command: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """The command as a process, once it answers at the port; ended with the block."""
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 30
        while True:
            assert process.poll() is None, f"{command[:3]} ended: {process.stderr.read()[-2000:]}"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < until, f"{command[:3]} does not answer"
            time.sleep(0.05)
        yield Server(port, process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def serve_sftp(folder: Path, port: int | None = None) -> Iterator[Server]:
    """The folder for USER with PASSWORD."""
    port = port or free_port()
    with serving(port, sys.executable, "-c", SFTP, str(port), str(folder), USER, PASSWORD) as server:
        yield server


SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
SSHD_CONFIG = """
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
Subsystem sftp internal-sftp
"""


@contextmanager
def serve_sshd(folder: Path) -> Iterator[tuple[Server, Path]]:
    """OpenSSH's own server for the user who runs this, and the one private key that it lets in; its files in folder."""
    import asyncssh

    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it shuts its lesser half in; a service manager makes it
    for name in ("host_key", "key"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(folder / name)
        (folder / name).chmod(0o600)
    key.write_public_key(folder / "authorized_keys")
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=folder), encoding="utf-8")
    port = free_port()
    with serving(port, SSHD, "-D", "-e", "-p", str(port), "-f", str(folder / "sshd_config")) as server:
        yield server, folder / "key"


@contextmanager
def serve_webdav(folder: Path, port: int | None = None) -> Iterator[Server]:
    """The folder for USER with PASSWORD."""
    port = port or free_port()
    config = {
        "host": "127.0.0.1",
        "port": port,
        "provider_mapping": {"/": str(folder)},
        "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
        "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
    }
    path = folder.with_name(f"{folder.name}.wsgidav.json")
    path.write_text(json.dumps(config), encoding="utf-8")
    program = str(Path(sys.executable).with_name("wsgidav"))
    with serving(port, program, "--config", str(path), "--quiet") as server:
        yield server


def s3_client(service: str, port: int, key: str, secret: str):
    import boto3

    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


def s3_keys(port: int, key: str, secret: str, bucket: str) -> list[str]:
    """Names of the objects in the bucket."""
    listed = s3_client("s3", port, key, secret).list_objects_v2(Bucket=bucket)
    return [found["Key"] for found in listed.get("Contents", [])]


@contextmanager
def serve_s3(bucket: str) -> Iterator[tuple[Server, str, str]]:
    """A server with one bucket, in memory, and the id and secret of the one key that it lets in."""
    port = free_port()
    program = str(Path(sys.executable).with_name("moto_server"))
    # The first four requests, below, need no key; every later one is checked.
    open_first = {"INITIAL_NO_AUTH_ACTION_COUNT": "4"}
    with serving(port, program, "-H", "127.0.0.1", "-p", str(port), env=open_first) as server:
        s3_client("s3", port, "x", "x").create_bucket(Bucket=bucket)
        iam = s3_client("iam", port, "x", "x")
        iam.create_user(UserName=USER)
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName=USER, PolicyName="all", PolicyDocument=json.dumps(allow))
        key = iam.create_access_key(UserName=USER)["AccessKey"]
        yield server, key["AccessKeyId"], key["SecretAccessKey"]
