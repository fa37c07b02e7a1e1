"""A small Kubernetes API server on loopback, as far as RayJobs go: rights, quota, finalizers, owners
and their garbage collector, watches. Real `kubectl` and the real Python client talk to it.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.conftest import ROOT
from tests.launch.crds import FOLDER, problems_with

TOKEN, ADMIN = "kube-" + "1" * 20, "admin-" + "1" * 20
KINDS = {
    ("ray.io/v1", "rayjobs"): "RayJob",
    ("ray.io/v1", "rayclusters"): "RayCluster",
    ("v1", "configmaps"): "ConfigMap",
    ("v1", "pods"): "Pod",
    ("v1", "events"): "Event",
    ("v1", "namespaces"): "Namespace",
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
MAX_CONFIG_BYTES = 2**20
Key = tuple[str, str, str, str]  # apiVersion, plural, namespace, name
Right = tuple[str, str]  # verb, resource


def granted() -> set[Right]:
    """What the Role of `k8s/base` allows who sends runs."""
    documents = yaml.safe_load_all((ROOT / "k8s" / "base" / "accounts.yaml").read_text())
    [role] = [value for value in documents if value["kind"] == "Role"]
    return {
        (verb, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


class Api:
    """Objects by (apiVersion, plural, namespace, name), and every change of one, in order."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.objects: dict[Key, dict[str, Any]] = {}
        self.events: list[tuple[int, str, tuple[str, str], dict[str, Any]]] = []
        self.version = 100
        self.oldest = 0  # versions before it have been forgotten: 410
        self.cut_streams = 0  # so many watches are cut off in the middle of a line
        self.rights = granted()
        self.seen: set[Right] = set()  # what was asked for with the token of who sends runs
        self.refused: dict[Right, tuple[int, str, str]] = {}  # status, reason, message
        self.num_rayjobs: int | None = None  # a quota
        self.knows_kuberay = True
        self.finalizers: list[str] = []  # the operator gives them to each RayJob
        self.collects_at_once = True  # else what is owned goes with `collect`
        self.logs: dict[str, bytes] = {}  # by pod; without one it is not scheduled: 204
        self.has_kubelet = True

    def put(self, key: Key, value: dict[str, Any], kind: str) -> None:
        with self.lock:
            self.version += 1
            value["metadata"]["resourceVersion"] = str(self.version)
            self.objects[key] = value
            copy = json.loads(json.dumps(value))
            self.events.append((self.version, kind, key[:2], copy))
            self.lock.notify_all()

    def add(self, version: str, plural: str, name: str, **parts: Any) -> dict[str, Any]:
        """An object that others have made."""
        metadata = {"name": name, "namespace": "ml", "uid": str(uuid.uuid4())}
        value = {"apiVersion": version, "kind": KINDS[version, plural]} | parts
        value["metadata"] = metadata | parts.get("metadata", {})
        self.put((version, plural, "ml", name), value, "ADDED")
        return value

    def delete(self, key: Key) -> dict[str, Any] | None:
        """As who asks for it does: finalizers keep an object until they are gone."""
        with self.lock:
            value = self.objects.get(key)
            if value is not None and value["metadata"].get("finalizers"):
                value["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")
                self.put(key, value, "MODIFIED")
                return value
            return self.remove(key)

    def remove(self, key: Key) -> dict[str, Any] | None:
        with self.lock:
            value = self.objects.pop(key, None)
            if value is not None:
                self.version += 1
                value["metadata"]["resourceVersion"] = str(self.version)
                self.events.append((self.version, "DELETED", key[:2], value))
                self.lock.notify_all()
                if self.collects_at_once:
                    self.collect()
        return value

    def collect(self) -> None:
        """Remove what has lost its owner."""
        with self.lock:
            there = {value["metadata"]["uid"] for value in self.objects.values()} | {None}
            for key in [k for k, v in self.objects.items() if _owner(v) not in there]:
                self.remove(key)

    def set_status(self, key: Key, **status: Any) -> None:
        with self.lock:
            value = self.objects.get(key)
            if value is not None:
                value["status"] = value.get("status", {}) | status
                self.put(key, value, "MODIFIED")

    def set_log(self, rayjob: dict[str, Any], log: bytes | None) -> None:
        """What a RayJob's submitter has printed; None if its pod has no node yet."""
        name, namespace = rayjob["metadata"]["name"], rayjob["metadata"]["namespace"]
        pod = f"{name}-submitter"
        if ("v1", "pods", namespace, pod) not in self.objects:
            uid = rayjob["metadata"]["uid"]
            owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": name, "uid": uid}
            labels = {"job-name": name, "heliostat/key": name}
            self.add("v1", "pods", pod, metadata={"labels": labels, "ownerReferences": [owner]})
        if log is not None:
            self.logs[pod] = log

    def hindrance(self, right: Right, name: str) -> tuple[int, str, str] | None:
        """Why a request is refused, if it is."""
        verb, resource = right
        if right not in self.rights:
            group = "ray.io" if resource.startswith("ray") else ""
            what = f'User "tester" cannot {verb} resource "{resource}" in API group "{group}"'
            return 403, "Forbidden", f'{resource} "{name}" is forbidden: {what}'
        if right == ("create", "rayjobs") and self.num_rayjobs is not None:
            used = sum(key[1] == "rayjobs" for key in self.objects)
            if used >= self.num_rayjobs:
                what = f"exceeded quota: runs, requested: count/rayjobs.ray.io=1, used: {used}"
                return 403, "Forbidden", f'rayjobs.ray.io "{name}" is forbidden: {what}'
        return self.refused.get(right)


def _owner(value: dict[str, Any]) -> str | None:
    owners = value["metadata"].get("ownerReferences", [])
    return owners[0]["uid"] if owners else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def log_message(self, *_: object) -> None:
        """Not on the test's terminal."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._is_known() or self._discovery(url.path):
            return
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        version, plural, namespace, name, sub = _parts(url.path)
        watches = query.get("watch") in ("true", "1")
        verb = "get" if name else "watch" if watches else "list"
        if not self._may(verb, f"{plural}/{sub}" if sub else plural, name):
            return
        if sub == "log":
            self._log(name)
        elif name:
            found = self.api.objects.get((version, plural, namespace, name))
            self._json(200, found) if found else self._absent(plural, name)
        elif watches:
            self._watch((version, plural), query)
        else:
            with self.api.lock:
                items = [
                    v for k, v in self.api.objects.items()
                    if k[:2] == (version, plural) and _is_chosen(v, query)
                ]  # fmt: skip
                head = {"resourceVersion": str(self.api.version)}
            kind = f"{KINDS[version, plural]}List"
            self._json(200, {"apiVersion": version, "kind": kind, "metadata": head, "items": items})

    def do_POST(self) -> None:
        value = self._body()
        version, plural, namespace, _, _ = _parts(urlsplit(self.path).path)
        name = value["metadata"]["name"]
        if not self._is_known() or not self._may("create", plural, name):
            return
        key = (version, plural, namespace, name)
        with self.api.lock:
            if key in self.api.objects:
                self._fail(409, "AlreadyExists", f'{plural} "{name}" already exists')
                return
            if problems := _problems(plural, value):
                kind = KINDS[version, plural]
                self._fail(422, "Invalid", f'{kind} "{name}" is invalid: {"; ".join(problems)}')
                return
            value["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": namespace}
            if plural == "rayjobs" and self.api.finalizers:
                value["metadata"]["finalizers"] = list(self.api.finalizers)
            self.api.put(key, value, "ADDED")
        self._json(201, value)

    def do_PATCH(self) -> None:
        patch = self._body()
        version, plural, namespace, name, _ = _parts(urlsplit(self.path).path)
        if not self._is_known() or not self._may("patch", plural, name):
            return
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        with self.api.lock:
            found = self.api.objects.get((version, plural, namespace, name))
            if found is None:
                self._absent(plural, name)
                return
            known = patch.get("metadata", {}).get("resourceVersion")
            if known not in (None, found["metadata"]["resourceVersion"]):
                what = (
                    "the object has been modified; please apply your changes to the latest version"
                )
                self._fail(409, "Conflict", f'Operation cannot be fulfilled on "{name}": {what}')
                return
            value = _merged(found, patch)
            if patch:
                self.api.put((version, plural, namespace, name), value, "MODIFIED")
        self._json(200, value)

    def do_DELETE(self) -> None:
        self._body()
        version, plural, namespace, name, _ = _parts(urlsplit(self.path).path)
        if not self._is_known() or not self._may("delete", plural, name):
            return
        found = self.api.delete((version, plural, namespace, name))
        self._json(200, found) if found else self._absent(plural, name)

    def _log(self, pod: str) -> None:
        if not self.api.has_kubelet:
            what = "dial tcp 10.0.0.7:10250: connect: connection refused"
            self._fail(500, "InternalError", f'Get "https://10.0.0.7:10250/containerLogs": {what}')
        elif pod in self.api.logs:
            self._send(200, "text/plain", self.api.logs[pod])
        else:
            self.send_response(204)
            self.end_headers()

    def _watch(self, kind: tuple[str, str], query: dict[str, str]) -> None:
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
                if _is_chosen(value, query):
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

    def _is_known(self) -> bool:
        """Whether we know who asks, and what for."""
        self.is_admin = self.headers.get("Authorization") == f"Bearer {ADMIN}"
        if not self.is_admin and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail(401, "Unauthorized", "Unauthorized")
            return False
        if not self.api.knows_kuberay and self.path.startswith("/apis/ray.io"):
            self._send(404, "text/plain", b"404 page not found\n")
            return False
        return True

    def _may(self, verb: str, resource: str, name: str) -> bool:
        if self.is_admin:
            return True
        self.api.seen.add((verb, resource))
        hindrance = self.api.hindrance((verb, resource), name)
        if hindrance is not None:
            self._fail(*hindrance)
        return hindrance is None

    def _absent(self, plural: str, name: str) -> None:
        kind = f"{plural}.ray.io" if plural.startswith("ray") else plural
        self._fail(404, "NotFound", f'{kind} "{name}" not found')

    def _body(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(length) or b"{}")

    def _fail(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}
        self._json(code, status | {"reason": reason, "message": message, "code": code})

    def _json(self, code: int, value: Any) -> None:
        self._send(code, "application/json", json.dumps(value).encode())

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _problems(plural: str, value: dict[str, Any]) -> list[str]:
    """What admission has against an object."""
    if plural == "configmaps":
        size = sum(len(text.encode()) for text in value["data"].values())
        too_long = f"data: Too long: may not be more than {MAX_CONFIG_BYTES} bytes"
        return [too_long] if size > MAX_CONFIG_BYTES else []
    return problems_with(value) if FOLDER and plural == "rayjobs" else []


def _merged(value: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for key, entry in patch.items():
        if entry is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), entry)
    return merged


def _is_chosen(value: dict[str, Any], query: dict[str, str]) -> bool:
    """Whether an object is one of those that selectors ask for."""
    fields = {"metadata.name": value["metadata"]["name"], "type": value.get("type")}
    for selector, there in (
        ("fieldSelector", fields), ("labelSelector", value["metadata"].get("labels", {})),
    ):  # fmt: skip
        for part in filter(None, query.get(selector, "").split(",")):
            key, _, wanted = part.partition("=")
            if there.get(key) != wanted:
                return False
    return True


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
