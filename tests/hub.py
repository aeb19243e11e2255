"""A model hub on the loopback interface: as much of the hub's protocol as publishing and fetching a model takes, in memory."""

import base64
import hashlib
import json
import re
import socket
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import huggingface_hub
import yaml
from huggingface_hub import close_session, constants

TOKEN = "hf_loopback"
USER = "me"
LARGE = (".safetensors", ".png")
"""Files that go by the large file protocol, whatever their size."""

OWN_ACCORD = "/api/agent-harnesses"
"""What the client asks for before its first request in a process, whatever that is; not recorded."""


@dataclass(frozen=True)
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision):
        """The commit that a branch or a hash names, or None."""
        commits = [commit for branch in self.branches.values() for commit in branch]
        sha = self.tags.get(revision, revision)
        return self.branches[revision][-1] if revision in self.branches else next((each for each in commits if each.sha == sha), None)

    def commit(self, branch, message, files):
        history = self.branches.setdefault(branch, [])
        sha = hashlib.sha1(f"{branch} {len(history)} {message}".encode()).hexdigest()
        history.append(Commit(sha, message, files))
        return sha


class Hub:
    """What the hub holds, and what it was asked.

    Args:
        token: the one it accepts, of the account `me`.

    Attributes:
        repositories: by their ids.
        uploaded: what was put into the large file store, by SHA-256.
        requests: method and path of every request so far, but for what the client asks of its own accord.
        faults: method, a pattern of paths, status, body and headers; the first that fits a request is its answer.
        cuts: method and a pattern of paths of requests whose connection breaks after half of their body.
        delay: seconds before every answer.
        organisations: that the account writes for, as it says.
        role: of the token, as it says.
        before_commit: called before a commit is looked at.
    """

    def __init__(self, token=TOKEN):
        self.token = token
        self.url = ""
        self.repositories = {}
        self.uploaded = {}
        self.requests = []
        self.faults = []
        self.cuts = []
        self.delay = 0.0
        self.organisations = []
        self.role = "write"
        self.before_commit = None

    def fail(self, method, path, status, message="", code=None, body=None):
        """Answer requests with an error from now on; `code` is the hub's `X-Error-Code`."""
        headers = {"X-Error-Code": code} if code else {}
        self.faults.append((method, path, status, {"error": message} if body is None else body, headers))

    def make(self, name, files=(), private=False):
        """Make a repository, with a first commit as the hub makes it."""
        self.repositories[name] = Repository(private)
        self.repositories[name].commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n", **dict(files)})
        return self.repositories[name]

    def files(self, name, revision="main"):
        """The files at the tip of a branch, but for the one that the hub makes itself."""
        found = self.repositories[name].find(revision).files
        return {path: content for path, content in found.items() if path != ".gitattributes"}

    def messages(self, name, branch="main"):
        """What was committed to a branch, the hub's own first commit left out."""
        return [commit.message for commit in self.repositories[name].branches[branch][1:]]


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status, message, code=None):
        self.answer = (status, {"error": message}, {"X-Error-Code": code} if code else {})


@contextmanager
def serving():
    """A hub that answers while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        close_session()


def point_client_at(url, home, monkeypatch):
    """Make the hub's client in this process use an address, and a home folder of its own without a token.

    The client reads its environment when it is imported, so its constants are set; nothing of it is replaced.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / "agent_harnesses.json"),
        "HF_HUB_OFFLINE": False,
        # chunked storage has a server of its own, which this is not
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    # whose methods are the functions that other libraries import
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def object_id(path, content):
    """What the hub calls a file's content, which is also its ETag."""
    return sha256(content) if path.endswith(LARGE) else git_hash(content)


def listed(path, content):
    """A file as the tree lists it."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\nsize {len(content)}\n".encode()
    large = {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": len(pointer)}} if path.endswith(LARGE) else {}
    return {"type": "file", "path": path, "size": len(content), "oid": git_hash(pointer if large else content), **large}


class Handler(BaseHTTPRequestHandler):
    """One request; `hub` is what all of them share."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Print nothing."""

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def answer(self):
        self.path = unquote(urlsplit(self.path).path)
        if any(method == self.command and re.fullmatch(pattern, self.path) for method, pattern in self.hub.cuts):
            self.cut()
            return
        self.body = self.read_body()
        time.sleep(self.hub.delay)
        if self.path != OWN_ACCORD:
            self.hub.requests.append((self.command, self.path))
        try:
            status, content, headers = self.fault() or self.route()
        except RefusedError as refused:
            status, content, headers = refused.answer
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def cut(self):
        """Break the connection in the middle of what is sent."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def fault(self):
        fits = (each[2:] for each in self.hub.faults if each[0] == self.command and re.fullmatch(each[1], self.path))
        return next(fits, None)

    def route(self):
        for method, pattern, act in ROUTES:
            found = re.fullmatch(pattern, self.path)
            if method == self.command.replace("HEAD", "GET") and found:
                return 200, *act(self, **found.groupdict())
        raise RefusedError(404, "no such address")

    # what is answered

    def whoami(self):
        self.require_token()
        names = self.hub.organisations
        orgs = None if names is None else [{"name": name} for name in names]
        return {"type": "user", "name": USER, "orgs": orgs, "auth": {"accessToken": {"role": self.hub.role}}}, {}

    def create(self):
        self.require_token()
        asked = json.loads(self.body)
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if not name.startswith(f"{USER}/"):
            raise RefusedError(403, f'You don\'t have the rights to create a model under the namespace "{asked["organization"]}"')
        if name in self.hub.repositories:
            return self.there_already(name)
        self.hub.make(name, private=asked.get("visibility") == "private")
        return {"url": f"{self.hub.url}/{name}"}, {}

    def there_already(self, name):
        refused = RefusedError(409, "You already created this model repo")
        refused.answer[1]["url"] = f"{self.hub.url}/{name}"
        raise refused

    def validate(self):
        front = json.loads(self.body)["content"].split("---")[1]
        if "base_model" not in yaml.safe_load(front):
            raise RefusedError(400, "base_model is missing")
        return {"errors": [], "warnings": []}, {}

    def info(self, name, revision="main"):
        commit = self.commit_of(name, revision)
        private = self.hub.repositories[name].private
        return {"id": name, "sha": commit.sha, "private": private, "siblings": [{"rfilename": path} for path in commit.files]}, {}

    def tree(self, name, revision):
        return [listed(path, content) for path, content in self.commit_of(name, revision).files.items()], {}

    def branch(self, name, revision):
        repository = self.repository(name, write=True)
        if revision in repository.branches:
            raise RefusedError(409, "Reference already exists")
        repository.branches[revision] = list(repository.branches["main"])
        return {}, {}

    def refs(self, name):
        repository = self.repository(name)
        tips = {branch: commits[-1].sha for branch, commits in repository.branches.items()}

        def told(kind, found):
            return [{"name": each, "ref": f"refs/{kind}/{each}", "targetCommit": sha} for each, sha in found.items()]

        return {"branches": told("heads", tips), "tags": told("tags", repository.tags), "converts": []}, {}

    def tag(self, name, revision):
        repository = self.repository(name, write=True)
        tag = json.loads(self.body)["tag"]
        if tag in repository.tags:
            raise RefusedError(409, "Tag reference exists already")
        repository.tags[tag] = self.commit_of(name, revision).sha
        return {}, {}

    def preupload(self, name, revision):
        self.repository(name, write=True)
        there = self.commit_of(name, revision).files
        files = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in files}
        known = {path: {"oid": object_id(path, there[path])} if path in there else {} for path in files}
        return {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False, **known[path]} for path in files]}, {}

    def batch(self, name):
        self.repository(name, write=True)
        objects = json.loads(self.body)["objects"]
        for each in objects:
            if each["oid"] not in self.hub.uploaded:
                address = f"{self.hub.url}/large/{each['oid']}"
                each["actions"] = {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}
        return {"transfer": "basic", "objects": objects}, {}

    def put(self, oid):
        if sha256(self.body) != oid:
            raise RefusedError(400, "the content is not what was announced")
        self.hub.uploaded[oid] = self.body
        return {}, {}

    def verify(self, oid):
        self.require_token()
        if len(self.hub.uploaded.get(oid, b"")) != json.loads(self.body)["size"]:
            raise RefusedError(404, "not uploaded")
        return {}, {}

    def commit(self, name, revision):
        repository = self.repository(name, write=True)
        if self.hub.before_commit:
            self.hub.before_commit()
        tip = self.commit_of(name, revision)
        files, message = dict(tip.files), ""
        for line in self.body.splitlines():
            key, value = json.loads(line).values()
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, tip.sha):
                    raise RefusedError(412, "a commit has happened since")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(revision, message, files)
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"}, {}

    def resolve(self, name, revision, file):
        commit = self.commit_of(name, revision)
        if file not in commit.files:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        return commit.files[file], {"ETag": f'"{object_id(file, commit.files[file])}"', "X-Repo-Commit": commit.sha}

    # what is asked for first

    def has_token(self):
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def require_token(self):
        if not self.has_token():
            raise RefusedError(401, "Invalid credentials in Authorization header")

    def repository(self, name, write=False):
        if write:
            self.require_token()
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.has_token()):
            raise RefusedError(404 if self.has_token() else 401, "Repository not found", "RepoNotFound")
        if write and not name.startswith(f"{USER}/"):
            raise RefusedError(403, f"you have no write access to {name}")
        return found

    def commit_of(self, name, revision):
        commit = self.repository(name).find(revision)
        if commit is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


NAME = r"(?P<name>[^/]+/[^/]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("GET", rf"/api/models/{NAME}", Handler.info),
    ("GET", rf"/api/models/{NAME}/revision/(?P<revision>.+)", Handler.info),
    ("GET", rf"/api/models/{NAME}/tree/(?P<revision>.+)", Handler.tree),
    ("GET", rf"/api/models/{NAME}/refs", Handler.refs),
    ("POST", rf"/api/models/{NAME}/tag/(?P<revision>.+)", Handler.tag),
    ("POST", rf"/api/models/{NAME}/branch/(?P<revision>.+)", Handler.branch),
    ("POST", rf"/api/models/{NAME}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", rf"/api/models/{NAME}/commit/(?P<revision>.+)", Handler.commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/large/(?P<oid>\w+)", Handler.put),
    ("POST", r"/large/(?P<oid>\w+)/verify", Handler.verify),
    ("GET", rf"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", Handler.resolve),
)
"""Method (HEAD as GET), pattern of the path, and what answers with content and headers."""
