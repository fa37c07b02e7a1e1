"""How a source's delimited text seems to be written: whatever its reader complains of is set as it
says, until nothing is left to complain of.
"""

from __future__ import annotations

from typing import Any

from heliostat.catalog.catalog import Catalog, read_catalog
from heliostat.errors import SettingError
from heliostat.spec.read import ReadSpec

MOST_TRIES = 8


def detect_catalog(source: str) -> Catalog:
    """The catalog of a source, read with the settings that leave least to doubt.

    Raises:
        DataError: nothing is there, or no settings read it.
    """
    read = ReadSpec()
    tried: list[ReadSpec] = []
    found: list[Catalog] = []
    while read not in tried and len(tried) < MOST_TRIES:
        tried.append(read)
        try:
            catalog = read_catalog(source, read)
        except SettingError as error:
            if found:
                break
            wrong, settings = error, dict(error.settings)
        else:
            found.append(catalog)
            settings = _better(catalog)
        read = ReadSpec.model_validate(read.model_dump() | settings)
    if not found:
        raise wrong
    return min(found, key=lambda catalog: len(catalog.doubts))


def _better(catalog: Catalog) -> dict[str, Any]:
    """The settings under which there is less to doubt: one way to write numbers at a time."""
    doubts = [dict(doubt.settings) for doubt in catalog.doubts.values()]
    settings = next((named for named in doubts if named.keys() - {"missing"}), {})
    words = [word for named in doubts for word in named.get("missing", ())]
    return settings | ({"missing": tuple(dict.fromkeys(words))} if words else {})
