"""A small Kubernetes API server on loopback, as far as RayJobs go, with an operator that runs them
on a real Ray head. Real `kubectl` and the real Python client talk to it.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.launch.crds import FOLDER, problems_with

TOKEN = "kube-" + "1" * 20
KINDS = {
    ("ray.io/v1", "rayjobs"): "RayJob",
    ("v1", "configmaps"): "ConfigMap",
    ("v1", "pods"): "Pod",
    ("v1", "namespaces"): "Namespace",
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Api:
    """Objects by (apiVersion, plural, namespace, name), and every change of one, in order."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.objects: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        self.events: list[tuple[int, str, tuple[str, str], dict[str, Any]]] = []
        self.version = 100
        self.oldest = 0  # versions before it have been forgotten: 410
        self.cut_streams = 0  # so many watches are cut off in the middle of a line
        self.logs: dict[str, str] = {}

    def put(self, key: tuple[str, str, str, str], value: dict[str, Any], kind: str) -> None:
        with self.lock:
            self.version += 1
            value["metadata"]["resourceVersion"] = str(self.version)
            self.objects[key] = value
            copy = json.loads(json.dumps(value))
            self.events.append((self.version, kind, key[:2], copy))
            self.lock.notify_all()

    def remove(self, key: tuple[str, str, str, str]) -> dict[str, Any] | None:
        with self.lock:
            value = self.objects.pop(key, None)
            if value is not None:
                self.version += 1
                value["metadata"]["resourceVersion"] = str(self.version)
                self.events.append((self.version, "DELETED", key[:2], value))
                self.lock.notify_all()
                uid = value["metadata"]["uid"]
                for other in [k for k, v in self.objects.items() if _owner(v) == uid]:
                    self.remove(other)
        return value

    def set_status(self, key: tuple[str, str, str, str], **status: str) -> None:
        with self.lock:
            value = self.objects.get(key)
            if value is not None:
                value["status"] = value.get("status", {}) | status
                self.put(key, value, "MODIFIED")


def _owner(value: dict[str, Any]) -> str | None:
    owners = value["metadata"].get("ownerReferences", [])
    return owners[0]["uid"] if owners else None


class Operator(threading.Thread):
    """Runs each RayJob on a real Ray head, as KubeRay does: its ConfigMap is a mounted folder, its
    containers' environment the driver's.
    """

    def __init__(self, api: Api, ray_address: str, ray_token: str) -> None:
        super().__init__(daemon=True)
        self.api, self.address, self.token = api, ray_address, ray_token
        self.done = threading.Event()
        self.sent: dict[str, str] = {}
        self.held = False  # nothing is started: a queue, or no room

    def run(self) -> None:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(
            self.address, headers={"x-ray-authorization": f"Bearer {self.token}"}
        )
        while not self.done.wait(0.3):
            with self.api.lock:
                jobs = {k: v for k, v in self.api.objects.items() if k[1] == "rayjobs"}
            for key, value in jobs.items():
                self._reconcile(client, key, value)
            for uid, submission in list(self.sent.items()):
                if uid not in {value["metadata"]["uid"] for value in jobs.values()}:
                    client.stop_job(submission)
                    del self.sent[uid]

    def _reconcile(self, client: Any, key: tuple[str, str, str, str], value: dict) -> None:
        status, uid = value.get("status", {}), value["metadata"]["uid"]
        if not status:
            self.api.set_status(key, jobDeploymentStatus="Initializing")
        elif self.held or status["jobDeploymentStatus"] in ("Complete", "Failed"):
            return
        elif uid not in self.sent:
            config = self.api.objects.get(("v1", "configmaps", key[2], key[3]))
            if config is None:
                return  # the kubelet waits for what is mounted
            folder = Path(tempfile.mkdtemp(prefix="mounted-"))
            for name, text in config["data"].items():
                (folder / name).write_text(text)
            [container] = value["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"][
                "containers"
            ]
            plain = {e["name"]: e["value"] for e in container["env"] if "value" in e}
            plain = {k: v for k, v in plain.items() if k.startswith(("HELIOSTAT_SENT", "RAY_JOB"))}
            self.sent[uid] = client.submit_job(
                entrypoint=value["spec"]["entrypoint"].replace("/etc/heliostat", str(folder)),
                submission_id=f"{key[3]}-{uid[:5]}",
                runtime_env={"env_vars": plain},
            )
            self.api.set_status(key, jobDeploymentStatus="Running", jobStatus="PENDING")
        else:
            job = str(client.get_job_info(self.sent[uid]).status.value)
            self.api.logs[key[3]] = client.get_job_logs(self.sent[uid])
            ended = job in ("SUCCEEDED", "FAILED", "STOPPED")
            deployment = {"FAILED": "Failed"}.get(job, "Complete") if ended else "Running"
            new = {"jobDeploymentStatus": deployment, "jobStatus": job}
            if deployment == "Failed":
                new["reason"] = "AppFailed"
            if not new.items() <= status.items():
                self.api.set_status(key, **new)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def log_message(self, *_: object) -> None:
        """Not on the test's terminal."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._allowed() or self._discovery(url.path):
            return
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        version, plural, namespace, name, sub = _parts(url.path)
        if sub == "log":
            self._text(self.api.logs.get(name.removesuffix("-submitter"), ""))
            return
        if plural == "pods":
            wanted = query.get("labelSelector", "").removeprefix("job-name=")
            pod = {"metadata": {"name": f"{wanted}-submitter", "namespace": namespace}}
            items = [pod] if wanted in self.api.logs else []
            self._json(200, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})
            return
        kind = KINDS[version, plural]
        if name:
            found = self.api.objects.get((version, plural, namespace, name))
            self._json(200, found) if found else self._fail(404, "NotFound", f'"{name}" not found')
            return
        chosen = _field(query.get("fieldSelector", ""))
        if query.get("watch") in ("true", "1"):
            self._watch((version, plural), chosen, query)
            return
        with self.api.lock:
            items = [
                v for k, v in self.api.objects.items()
                if k[:2] == (version, plural) and chosen in ("", k[3])
            ]  # fmt: skip
            head = {"resourceVersion": str(self.api.version)}
        self._json(
            200, {"apiVersion": version, "kind": f"{kind}List", "metadata": head, "items": items}
        )

    def do_POST(self) -> None:
        value = self._body()
        if not self._allowed():
            return
        version, plural, namespace, _, _ = _parts(urlsplit(self.path).path)
        name = value["metadata"]["name"]
        key = (version, plural, namespace, name)
        if key in self.api.objects:
            self._fail(409, "AlreadyExists", f'{plural} "{name}" already exists')
            return
        if FOLDER and plural == "rayjobs" and (problems := problems_with(value)):
            self._fail(422, "Invalid", f'RayJob "{name}" is invalid: {"; ".join(problems)}')
            return
        value["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": namespace}
        self.api.put(key, value, "ADDED")
        self._json(201, value)

    def do_DELETE(self) -> None:
        self._body()
        if not self._allowed():
            return
        version, plural, namespace, name, _ = _parts(urlsplit(self.path).path)
        found = self.api.remove((version, plural, namespace, name))
        self._json(200, found) if found else self._fail(404, "NotFound", f'"{name}" not found')

    def _watch(self, kind: tuple[str, str], chosen: str, query: dict[str, str]) -> None:
        since = int(query.get("resourceVersion") or 0)
        if since < self.api.oldest:
            self._fail(410, "Expired", "too old resource version")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or 30)
        while (left := deadline - time.monotonic()) > 0:
            with self.api.lock:
                new = [e for e in self.api.events if e[0] > since and e[2] == kind]
                if not new:
                    self.api.lock.wait(min(left, 0.5))
                    continue
            for number, event, _, value in new:
                since = number
                if chosen in ("", value["metadata"]["name"]):
                    line = json.dumps({"type": event, "object": value}).encode() + b"\n"
                    if self.api.cut_streams:
                        self.api.cut_streams -= 1
                        self.wfile.write(line[: len(line) // 2])
                        return
                    try:
                        self.wfile.write(line)
                        self.wfile.flush()
                    except OSError:
                        return

    def _discovery(self, path: str) -> bool:
        known: dict[str, Any] = {
            "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {
                "kind": "APIGroupList", "apiVersion": "v1",
                "groups": [{
                    "name": "ray.io",
                    "versions": [{"groupVersion": "ray.io/v1", "version": "v1"}],
                    "preferredVersion": {"groupVersion": "ray.io/v1", "version": "v1"},
                }],
            },
            "/api/v1": _resources("v1"),
            "/apis/ray.io/v1": _resources("ray.io/v1"),
        }  # fmt: skip
        if path not in known:
            return False
        self._json(200, known[path])
        return True

    def _allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._fail(401, "Unauthorized", "Unauthorized")
        return False

    def _body(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(length) or b"{}")

    def _fail(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}
        self._json(code, status | {"reason": reason, "message": message, "code": code})

    def _json(self, code: int, value: Any) -> None:
        self._send(code, "application/json", json.dumps(value).encode())

    def _text(self, text: str) -> None:
        self._send(200, "text/plain", text.encode())

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _resources(version: str) -> dict[str, Any]:
    names = {plural: kind for (v, plural), kind in KINDS.items() if v == version}
    entries = [
        {
            "name": plural, "singularName": kind.lower(), "kind": kind, "verbs": VERBS,
            "namespaced": kind != "Namespace",
        }
        for plural, kind in names.items()
    ]  # fmt: skip
    return {"kind": "APIResourceList", "groupVersion": version, "resources": entries}


def _parts(path: str) -> tuple[str, str, str, str, str]:
    """Version, plural, namespace, name and subresource of a path."""
    words = path.strip("/").split("/")
    version, rest = ("v1", words[2:]) if words[0] == "api" else ("/".join(words[1:3]), words[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    return version, rest[0], namespace, *[*rest[1:], "", ""][:2]


def _field(selector: str) -> str:
    return selector.removeprefix("metadata.name=") if selector else ""


class KubeServer:
    """The server, its operator, and a kubeconfig for both clients."""

    def __init__(self, folder: Path, ray_address: str, ray_token: str) -> None:
        self.api = Api()
        handler = type("BoundHandler", (Handler,), {"api": self.api})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.certificate = _certificate(folder)  # kubectl sends no token without TLS
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.operator = Operator(self.api, ray_address, ray_token)
        self.kubeconfig = folder / "kubeconfig"
        self.write_config(TOKEN)

    def write_config(self, token: str) -> None:
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "test",
                    "clusters": [{"name": "test", "cluster": {
                        "server": f"https://127.0.0.1:{self.server.server_address[1]}",
                        "certificate-authority": str(self.certificate),
                    }}],
                    "users": [{"name": "tester", "user": {"token": token}}],
                    "contexts": [{"name": "test", "context": {
                        "cluster": "test", "user": "tester", "namespace": "ml",
                    }}],
                }
            )
        )  # fmt: skip


def _certificate(folder: Path) -> Path:
    """A certificate for loopback, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


@contextmanager
def kube_server(folder: Path, ray_address: str, ray_token: str) -> Iterator[KubeServer]:
    """Both, up and running."""
    server = KubeServer(folder, ray_address, ray_token)
    thread = threading.Thread(target=server.server.serve_forever, daemon=True)
    thread.start()
    server.operator.start()
    try:
        yield server
    finally:
        server.operator.done.set()
        server.operator.join(10)
        server.server.shutdown()
        server.server.server_close()
