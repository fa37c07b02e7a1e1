"""The site file: what a platform team sets once for everybody's jobs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from heliostat.spec.base import Spec
from heliostat.spec.kuberay import KubeRaySpec
from heliostat.spec.scale import LimitsSpec


class AddressCluster(Spec):
    """A running Ray cluster, reached at its dashboard's URL.

    The token comes from the variable named by `token_env`, else from `token_file`, else from
    where Ray itself looks (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token). A price is
    that of a CPU's hour.
    """

    address: Annotated[str, Field(pattern=r"^https?://")]
    token_env: str | None = None
    token_file: str | None = None
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0


class KubeRayCluster(Spec):
    """A Kubernetes cluster with the KubeRay operator."""

    kuberay: KubeRaySpec


def _cluster_tag(value: Any) -> str:
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return "kuberay" if "kuberay" in keys else "address"


Cluster = Annotated[
    Annotated[AddressCluster, Tag("address")] | Annotated[KubeRayCluster, Tag("kuberay")],
    Discriminator(_cluster_tag),
]


class SiteSpec(Spec):
    """Default storage, named clusters, and limits for every job of the site."""

    storage: str | None = None
    clusters: dict[str, Cluster] = {}
    limits: LimitsSpec | None = None
