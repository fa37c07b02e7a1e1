"""KubeRay's own schemas and rules, where HELIOSTAT_KUBERAY_CRDS says where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import pytest
import yaml

FOLDER = os.environ.get("HELIOSTAT_KUBERAY_CRDS")
needs_crds = pytest.mark.skipif(
    not FOLDER, reason="HELIOSTAT_KUBERAY_CRDS names no folder with KubeRay's CRDs"
)


def problems_with(value: dict[str, Any]) -> list[str]:
    """What an API server that has KubeRay's CRDs says against an object."""
    schema = _schema(value["kind"], value["apiVersion"].partition("/")[2])
    found = [error.message for error in _validator(value["kind"]).iter_errors(value)]
    return (
        found
        + list(_unknown(schema, value, ""))
        + list(_broken_rules(schema, value, value["kind"]))
    )


@cache
def _schema(kind: str, version: str) -> dict[str, Any]:
    assert FOLDER is not None
    path = Path(FOLDER) / f"ray.io_{kind.lower()}s.yaml"
    crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    [found] = [v for v in crd["spec"]["versions"] if v["name"] == version]
    return found["schema"]["openAPIV3Schema"]


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_as_json_schema(_schema(kind, "v1")))


def _as_json_schema(schema: Any) -> Any:
    """OpenAPI's ways of saying the same: numbers or texts, and null."""
    if isinstance(schema, list):
        return [_as_json_schema(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _as_json_schema(entry) for key, entry in schema.items() if key != "format"}
    if schema.get("x-kubernetes-int-or-string") is True:
        plain.pop("anyOf", None)
        plain["type"] = ["integer", "string"]
    if schema.get("nullable") is True and isinstance(plain.get("type"), str):
        plain["type"] = [plain["type"], "null"]
    return plain


def _unknown(schema: dict[str, Any], value: Any, place: str) -> Iterator[str]:
    """Keys that strict field validation refuses."""
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _unknown(schema.get("items", {}), entry, f"{place}[{number}]")
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    known, more = schema.get("properties"), schema.get("additionalProperties")
    if known is None and not isinstance(more, dict):
        return  # `metadata` and other free maps
    for key, entry in value.items():
        inner = (known or {}).get(key, more)
        if inner is None and not (place == "" and key in ("apiVersion", "kind", "metadata")):
            yield f"unknown field {place}.{key}"
        elif isinstance(inner, dict):
            yield from _unknown(inner, entry, f"{place}.{key}")


def _broken_rules(schema: dict[str, Any], value: Any, place: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:
            continue  # about changes
        environment = celpy.Environment()
        program = environment.program(environment.compile(rule["rule"]))
        if not program.evaluate({"self": celpy.json_to_cel(value)}):
            yield f"{place}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        for key, inner in schema.get("properties", {}).items():
            if key in value:
                yield from _broken_rules(inner, value[key], f"{place}.{key}")
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _broken_rules(schema.get("items", {}), entry, f"{place}[{number}]")


def insecure(pod: dict[str, Any]) -> list[str]:
    """What the `restricted` Pod Security Standard has against a pod, and a token nobody needs."""
    spec, found = pod["spec"], []
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            found.append(key)
    if spec.get("automountServiceAccountToken") is not False:
        found.append("a token is mounted")
    allowed = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim", "ephemeral"}
    for volume in spec.get("volumes", []):
        if not allowed.issuperset(set(volume) - {"name"}):
            found.append(f"volume {volume['name']}")
    for container in spec["containers"] + spec.get("initContainers", []):
        security = spec.get("securityContext", {}) | container.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
            found.append(f"{container['name']} may run as root")
        if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append(f"{container['name']} has no seccomp profile")
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            found.append(f"{container['name']} may gain privileges")
        if "ALL" not in security.get("capabilities", {}).get("drop", []):
            found.append(f"{container['name']} keeps capabilities")
        if security.get("privileged") or security.get("capabilities", {}).get("add"):
            found.append(f"{container['name']} is privileged")
    return found
