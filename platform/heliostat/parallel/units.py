"""The parts of a model that parallelism and compilation take one at a time."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn


def units_of(model: nn.Module) -> list[nn.Module]:
    """The modules that `shard_units`, patterns of their names, fit, if they hold weights."""
    patterns = getattr(model, "shard_units", ())
    return [
        module
        for name, module in model.named_modules()
        if any(fnmatchcase(name, p) and name.count(".") == p.count(".") for p in patterns)
        and any(True for _ in module.parameters())
    ]
