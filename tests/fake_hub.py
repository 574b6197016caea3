"""As much of the Hugging Face hub's upload API as `huggingface_hub` asks for, on loopback: its client, no account."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_test"


@dataclass
class FakeHub:
    """What arrived: repositories (whether private) and the files of the last commit."""

    url: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, body: object, status: int = 200) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def read(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def allowed(self) -> bool:
            if self.headers["Authorization"] == f"Bearer {TOKEN}":
                return True
            self.answer({"error": "Invalid username or password."}, 401)
            return False

        def do_GET(self) -> None:
            if self.allowed() and "/tree/" in self.path:
                self.answer(
                    [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in hub.files.items()]
                )

        def do_PUT(self) -> None:
            hub.blobs[self.path.rpartition("/")[2]] = self.read()
            self.answer({})

        def do_POST(self) -> None:
            body = self.read()
            if not self.allowed():
                return
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization')}/{asked['name']}" if asked.get("organization") else asked["name"]
                hub.private[name] = asked.get("visibility") == "private"
                self.answer({"url": f"{hub.url}/{name}", "id": name})
            elif self.path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [file["path"] for file in json.loads(body)["files"]]
                large = (".safetensors", ".png")
                modes = {file: "lfs" if file.endswith(large) else "regular" for file in files}
                self.answer({"files": [{"path": f, "uploadMode": m, "shouldIgnore": False} for f, m in modes.items()]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                actions = [{**o, "actions": {"upload": {"href": f"{hub.url}/blob/{o['oid']}"}}} for o in objects]
                self.answer({"transfer": "basic", "objects": actions})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.decode().splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.files[value["path"]] = hub.blobs[value["oid"]]
                    elif line["key"] == "deletedFile":
                        del hub.files[value["path"]]
                repo_id = "/".join(self.path.split("/")[3:5])  # of /api/models/owner/name/commit/main
                self.answer({"commitUrl": f"{hub.url}/{repo_id}/commit/{'0' * 40}", "commitOid": "0" * 40})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
