"""The cluster that a job is sent to."""

from __future__ import annotations

import difflib

from heliostat.errors import Problem, UserError
from heliostat.spec.site import AddressCluster, Cluster, KubeRayCluster, SiteSpec


def find_cluster(site: SiteSpec, name: str | Cluster | None) -> Cluster:
    """The cluster called `name` in the site file; one that is written out stands for itself.

    Raises:
        UserError: no name given, or the site file has none like it.
    """
    if isinstance(name, (AddressCluster, KubeRayCluster)):
        return name
    if name is None:
        raise UserError(Problem("--to", "names no cluster", f"known: {_known(site)}"))
    cluster = site.clusters.get(name)
    if cluster is None:
        close = difflib.get_close_matches(name, site.clusters, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known: {_known(site)}"
        raise UserError(Problem("--to", f"the site file has no cluster `{name}`", hint))
    return cluster


def _known(site: SiteSpec) -> str:
    return ", ".join(sorted(site.clusters)) or "none; write them under `clusters:` in the site file"
