"""The token of a running Ray cluster."""

from __future__ import annotations

import os
from pathlib import Path

from heliostat.errors import LaunchError
from heliostat.spec.site import AddressCluster

RAY_TOKEN, RAY_TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
RAY_TOKEN_FILE = Path(".ray") / "auth_token"


def headers_of(cluster: AddressCluster) -> dict[str, str]:
    """What a request to the cluster carries; nothing where no token is found.

    A Kubernetes API server in between keeps `Authorization` for itself; without it Ray's client
    would add what it finds in the environment.

    Raises:
        LaunchError: the site file names a token that is not there.
    """
    token = _named(cluster) or _found()
    names = ("x-ray-authorization", "Authorization")
    return dict.fromkeys(names, f"Bearer {token}") if token else {}


def _named(cluster: AddressCluster) -> str | None:
    if cluster.token_env is not None:
        token = os.environ.get(cluster.token_env)
        if not token:
            raise LaunchError(
                f"the variable {cluster.token_env}, named by the site file, is not set"
            )
        return token
    if cluster.token_file is not None:
        try:
            return Path(cluster.token_file).expanduser().read_text().strip()
        except OSError as error:
            raise LaunchError(f"the token file {cluster.token_file}: {error.strerror}") from error
    return None


def _found() -> str | None:
    """Where Ray itself looks, in its order."""
    if token := os.environ.get(RAY_TOKEN):
        return token
    path = Path(os.environ.get(RAY_TOKEN_PATH) or Path.home() / RAY_TOKEN_FILE)
    return path.read_text().strip() if path.is_file() else None
