"""What a tokenizer's file says of its tokens, without the library that runs it.

`bytes` is a tokenizer of its own that needs no file: a token is a byte of UTF-8, and one more
ends a document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from heliostat.errors import DataError, Problem
from heliostat.spec.identity import DIGEST_LENGTH
from heliostat.storage.cache import local_copy
from heliostat.storage.objects import as_path

BYTES = "bytes"
TOKENIZER_FILE, SETTINGS_FILE = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True)
class Vocabulary:
    """How many tokens there are, which one ends a document, and the digest of the file."""

    size: int
    end: int
    digest: str


@lru_cache(maxsize=8)
def read_vocabulary(tokenizer: str, end_token: str | None) -> Vocabulary:
    """The vocabulary of `bytes`, or of the tokenizer in a folder.

    Raises:
        DataError: there is no tokenizer, or nothing says which token ends a document.
    """
    if tokenizer == BYTES:
        return Vocabulary(257, 256, BYTES)
    folder = local_copy(as_path(tokenizer))
    try:
        content = (folder / TOKENIZER_FILE).read_bytes()
        value = json.loads(content)
        ids = _ids(value)
    except FileNotFoundError:
        remedy = "in Python: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes it"
        message = f"`{tokenizer}` holds no {TOKENIZER_FILE}"
        raise DataError(Problem("model.tokenizer", message, remedy)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"`{tokenizer}/{TOKENIZER_FILE}` is no tokenizer: {error!r}"
        raise DataError(Problem("model.tokenizer", message)) from None
    end = end_token or _usual_end(folder / SETTINGS_FILE)
    if end is None or end not in ids:
        message = f"`{end}` is no token" if end else "does not say which token ends a document"
        remedy = "write `model.end_token`, such as `<|endoftext|>`"
        raise DataError(Problem("model.tokenizer", f"`{tokenizer}`: {message}", remedy))
    digest = hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]
    return Vocabulary(max(ids.values()) + 1, ids[end], digest)


def _ids(value: Mapping[str, Any]) -> dict[str, int]:
    """Every token's number. A unigram model lists its tokens in order, others map them."""
    listed = value["model"]["vocab"]
    known = listed if isinstance(listed, dict) else {e[0]: i for i, e in enumerate(listed)}
    return dict(known) | {token["content"]: token["id"] for token in value["added_tokens"]}


def _usual_end(settings: Any) -> str | None:
    try:
        end = json.loads(settings.read_bytes()).get("eos_token")
    except (FileNotFoundError, ValueError):
        return None
    return end.get("content") if isinstance(end, dict) else end
