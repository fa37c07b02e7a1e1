"""The tests' Kubernetes cluster: the API server, and an operator that runs RayJobs on a real Ray
head.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.launch.kube_api import ADMIN, TOKEN, Api, Handler, Key


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

    def _reconcile(self, client: Any, key: Key, value: dict) -> None:
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
            self.api.set_log(value, client.get_job_logs(self.sent[uid]).encode())
            ended = job in ("SUCCEEDED", "FAILED", "STOPPED")
            deployment = {"FAILED": "Failed"}.get(job, "Complete") if ended else "Running"
            new = {"jobDeploymentStatus": deployment, "jobStatus": job}
            if deployment == "Failed":
                new["reason"] = "AppFailed"
            if not new.items() <= status.items():
                self.api.set_status(key, **new)


class KubeServer:
    """The server, its operator, and a kubeconfig for both clients."""

    def __init__(self, folder: Path, ray_address: str | None, ray_token: str) -> None:
        self.api = Api()
        handler = type("BoundHandler", (Handler,), {"api": self.api})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.certificate = _certificate(folder)  # kubectl sends no token without TLS
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.operator = Operator(self.api, ray_address or "", ray_token)
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
                    "users": [
                        {"name": "tester", "user": {"token": token}},
                        {"name": "admin", "user": {"token": ADMIN}},
                    ],
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
def kube_server(
    folder: Path, ray_address: str | None = None, ray_token: str = ""
) -> Iterator[KubeServer]:
    """Both, up and running; without a Ray head no operator."""
    server = KubeServer(folder, ray_address, ray_token)
    thread = threading.Thread(target=server.server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    if ray_address is not None:
        server.operator.start()
    try:
        yield server
    finally:
        if ray_address is not None:
            server.operator.done.set()
            server.operator.join(10)
        server.server.shutdown()
        server.server.server_close()
