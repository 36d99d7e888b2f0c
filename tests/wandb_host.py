"""As much of a W&B host as ``wandb sync`` asks for, on this machine: it takes what is uploaded and keeps an account of it."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Host(ThreadingHTTPServer):
    """The account: runs as they were described, their history lines, and artifacts whose files arrived."""

    def __init__(self, refused: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.refused = refused  # ids of runs that are not let in
        self.runs: dict[str, dict] = {}
        self.lines: dict[str, list[dict]] = {}
        self.committed: list[str] = []  # ids of artifacts


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Host

    def do_POST(self) -> None:
        """Answer a query, or take history lines and artifacts."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        if self.path.endswith("/file_stream"):
            sent = body.get("files", {}).get("wandb-history.jsonl")
            if sent:
                lines = self.server.lines.setdefault(self.path.split("/")[-2], [])
                lines[sent["offset"] :] = map(json.loads, sent["content"])
            self.reply({})
        else:
            self.query(body.get("operationName"), body.get("variables", {}))

    def do_PUT(self) -> None:
        """Take a file."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({})

    def do_GET(self) -> None:
        """Be there."""
        self.reply({})

    def query(self, name: str, values: dict) -> None:
        """Answer the queries of an upload."""
        url, data = f"{self.server.url}/storage", {}
        if name == "UpsertBucket":
            run = values["name"]
            if run in self.server.refused:
                self.reply({"errors": [{"message": "permission denied"}]}, 403)
                return
            new = run not in self.server.runs
            self.server.runs.setdefault(run, {}).update({key: value for key, value in values.items() if value is not None})
            project = {"id": "P", "name": values["project"], "entity": {"id": "E", "name": values["entity"] or "me"}}
            count = len(self.server.lines.get(run, []))
            bucket = {"id": run, "name": run, "config": "{}", "historyLineCount": count, "project": project}
            data = {"upsertBucket": {"bucket": bucket, "inserted": new}}
        elif name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{url}/{file}"} for file in values["files"]]
            data = {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
        elif name == "CreateArtifact":
            found = {"id": values["input"]["artifactCollectionName"], "state": "PENDING", "artifactSequence": {}}
            data = {"createArtifact": {"artifact": found}}
        elif name == "CreateArtifactManifest":
            file = {"id": "F", "uploadUrl": f"{url}/manifest", "uploadHeaders": []}
            data = {"createArtifactManifest": {"artifactManifest": {"id": "M", "file": file}}}
        elif name == "CreateArtifactFiles":
            files = values["input"]["artifactFiles"]
            nodes = [{"storagePath": "x", "uploadUrl": url, "uploadHeaders": [], "artifact": {"id": "A"}} for _ in files]
            data = {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        elif name == "CommitArtifact":
            self.server.committed.append(values["artifactID"])
            data = {"commitArtifact": {"artifact": {"id": values["artifactID"]}}}
        self.reply({"data": data})

    def reply(self, answer: dict, code: int = 200) -> None:
        """Send an answer."""
        text = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def host(*refused: str) -> Iterator[Host]:
    """Run a host that lets in all runs but those of these ids."""
    server = Host(refused)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
