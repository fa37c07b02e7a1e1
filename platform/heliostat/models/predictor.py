"""What every finished model can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """What a model is built for: how many numbers, the number of codes of each category, and
    how many outputs (1 for regression and two classes, else one a class). After the categories
    come the tokens of each text: `texts` has (codes, places) of each; code 0 is no token.
    With the link `log`, the output is the logarithm of what is predicted. A language model has an
    output a token, and `end` is the token that ends a document.
    """

    num_numbers: int
    cardinalities: tuple[int, ...]
    num_outputs: int
    task: str
    texts: tuple[tuple[int, int], ...] = ()
    link: str = "identity"
    end: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Shape:
        """The shape that `dataclasses.asdict` wrote."""
        texts = tuple((int(codes), int(places)) for codes, places in value.get("texts", ()))
        return cls(
            **(dict(value) | {"cardinalities": tuple(value["cardinalities"]), "texts": texts})
        )


class Savable(Protocol):
    """What a model folder is made from."""

    def save(self, folder: Path) -> str:
        """Write the model into `folder`; return the file's name."""


class Predictor(Savable, Protocol):
    """A trained model. `scores` is called from any thread, with any number of rows."""

    def scores(self, numbers: npt.NDArray[Any], categories: npt.NDArray[Any]) -> Scores:
        """[rows] numbers for a regression, [rows] probabilities of the positive class, or
        [rows, classes] probabilities.
        """


@runtime_checkable
class TextPredictor(Protocol):
    """A trained language model."""

    def token_sums(
        self, tokens: npt.NDArray[Any], targets: npt.NDArray[Any], weights: npt.NDArray[Any]
    ) -> Scores:
        """Of [sequences, tokens] each, [sequences, 3]: the negative log probability of the true
        tokens, how many were the likeliest, and how many there are, each summed by weight.
        """


@runtime_checkable
class JointPredictor(Protocol):
    """A trained model that may be cut."""

    @property
    def is_joint(self) -> bool:
        """Whether all ranks score together: each must ask for the scores of as many rows."""
