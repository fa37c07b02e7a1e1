"""A client of a Kubernetes API server, and each way in which it can fail, in a sentence."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from heliostat.errors import ClusterRefusedError, ClusterUnavailableError, LaunchError
from heliostat.spec.kuberay import KubeRaySpec

NUM_RETRIES, CONNECT_SECONDS, READ_SECONDS = 3, 5.0, 30.0
PASSING = ("exceeded quota", "status unknown for quota", "is being terminated")  # reasons of 403
LONGEST_PAGE = 300  # an error page of a proxy is no sentence


@contextmanager
def api_client(cluster: KubeRaySpec) -> Iterator[Any]:
    """A client of the cluster's API server. What goes wrong with it comes out as a sentence.

    Raises:
        ClusterRefusedError: the server does not take the request, or there is no way to it.
        ClusterUnavailableError: it may take it later.
    """
    try:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError
    except ImportError as error:
        raise ClusterRefusedError(
            "KubeRay needs the extra: pip install 'heliostat[k8s]'"
        ) from error
    client = _client(cluster.context)
    try:
        yield client
    except ApiException as error:
        if not error.status:  # what the client makes of an error of TLS
            raise _unreachable(client.configuration.host, error.__context__ or error) from error
        raise _refusal(error) from error
    except (HTTPError, OSError) as error:
        raise _unreachable(client.configuration.host, error) from error
    finally:
        client.rest_client.close()


def if_there(name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call about the object `name` returns; None if the object is not there."""
    from kubernetes.client import ApiException

    try:
        return call(*arguments, **options)
    except ApiException as error:
        # Of a kind or a namespace that is not there, the sentence is another.
        if error.status == 404 and f'"{name}" not found' in _message(error):
            return None
        raise


def body_of(client: Any, response: Any) -> bytes:
    """The bytes of a response that the client has not looked into."""
    body = bytes(response.data or b"")
    if not 200 <= response.status <= 299:
        client.response_deserialize(response, {})  # raises
    return body


def _client(context: str | None) -> Any:
    """A client by the kubeconfig, else by the account of the pod that this runs in."""
    from kubernetes import client, config
    from urllib3 import Retry

    configuration = client.Configuration()
    try:
        config.load_kube_config(
            # The library would look at the variable once, when it is imported.
            config_file=os.environ.get("KUBECONFIG"),
            context=context,
            client_configuration=configuration,
        )
    except Exception as error:  # a foreign file, and what its parser makes of it
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            what = " ".join(str(error).split()) or type(error).__name__
            raise ClusterRefusedError(f"no Kubernetes configuration: {what}") from error
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it tells of each retry
    configuration.retries = Retry(NUM_RETRIES, read=1)
    api = client.ApiClient(configuration)
    api.call_api = _bounded(api.call_api)
    return api


def _bounded(call: Callable[..., Any]) -> Callable[..., Any]:
    """No request waits for ever: by itself the client would."""

    def bounded(*arguments: Any, _request_timeout: Any = None, **options: Any) -> Any:
        limit = _request_timeout or (CONNECT_SECONDS, READ_SECONDS)
        return call(*arguments, _request_timeout=limit, **options)

    return bounded


def _refusal(error: Any) -> LaunchError:
    """What the API server said, and whether that may change by itself."""
    status, message = error.status, _message(error)
    if status == 401:
        what = f"does not know us (401): {message}; renew the token of the kubeconfig"
        return ClusterUnavailableError(f"the Kubernetes cluster {what}")
    if status == 403:
        kind = ClusterUnavailableError if _passes(message) else ClusterRefusedError
        return kind(f"the Kubernetes cluster does not allow it (403): {message}")
    if status == 404 and ("page not found" in message or "the requested resource" in message):
        what = "KubeRay is not installed there, or is older than its API ray.io/v1"
        return ClusterRefusedError(f"the Kubernetes cluster knows no RayJobs (404): {what}")
    if status in (408, 409, 410, 429) or status >= 500:
        return ClusterUnavailableError(
            f"the Kubernetes cluster does not take it now ({status}): {message}"
        )
    return ClusterRefusedError(f"the API server refuses it ({status}): {message}")


def _passes(message: str) -> bool:
    return any(reason in message for reason in PASSING)


def _message(error: Any) -> str:
    """The API server's own sentence."""
    text = error.body or ""
    try:
        text = json.loads(text)["message"]
    except (TypeError, ValueError, KeyError):
        if not text or len(text) > LONGEST_PAGE:
            text = error.reason
    return " ".join(str(text).split()) or "it gives no reason"


def _unreachable(host: str, error: BaseException) -> LaunchError:
    """Why no answer comes from `host`."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            what = f"the certificate of {host} is not accepted: {cause.verify_message}"
            return ClusterRefusedError(f"{what}; see `certificate-authority` in the kubeconfig")
    *_, innermost = _causes(error)
    what = f"the Kubernetes cluster does not answer at {host}: {_why(innermost)}"
    return ClusterUnavailableError(what)


def _why(cause: BaseException) -> str:
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, socket.gaierror):
        return f"its name cannot be resolved ({cause.strerror})"
    if isinstance(cause, TimeoutError) or "timed out" in str(cause):
        return "no answer in time"
    return " ".join(str(cause).split()) or type(cause).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it stands for, the innermost last."""
    while error is not None:
        yield error
        inner = (getattr(error, "reason", None), *error.args, error.__cause__)
        error = next((value for value in inner if isinstance(value, BaseException)), None)
