"""Tensors of which a rank holds a part. What torch has for them is loaded by who cuts a model: it
is more than half a second of a worker's start, and a model that is whole has no use for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether the ranks hold it together."""
    cut = sys.modules.get("torch.distributed.tensor")
    return cut is not None and isinstance(tensor, cut.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be cut: every rank that has a part must ask."""
    return tensor.full_tensor() if is_part(tensor) else tensor
