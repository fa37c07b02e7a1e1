"""One message when a run has ended: a POST of JSON to the address in HELIOSTAT_WEBHOOK."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping
from typing import Any

VARIABLE = "HELIOSTAT_WEBHOOK"
PATIENCE_SECONDS = 10.0


def tell_webhook(state: Mapping[str, Any]) -> str:
    """Post how a run ended; what went wrong with that, which is never the run's own failure. The
    address is a secret: it may hold a token.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        return ""
    if not address.startswith(("http://", "https://")):
        return f"{VARIABLE} is no http(s) address; nobody was told"
    body = json.dumps(dict(state)).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
            return ""
    except (OSError, ValueError) as error:
        return f"the webhook could not be told: {type(error).__name__}"
