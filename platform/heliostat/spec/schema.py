"""JSON Schema of the job file, for editors."""

from __future__ import annotations

from typing import Any

from heliostat.spec.job import JobSpec
from heliostat.spec.site import SiteSpec


def job_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the job file."""
    return _titled(JobSpec.model_json_schema(by_alias=True), "heliostat job file")


def site_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the site file."""
    return _titled(SiteSpec.model_json_schema(by_alias=True), "heliostat site file")


def _titled(schema: dict[str, Any], title: str) -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": title}
