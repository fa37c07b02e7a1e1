"""Build a torch network from its spec, and make a predictor of a trained one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heliostat.models.custom import import_class
from heliostat.models.gpt import Gpt
from heliostat.models.mlp import Mlp
from heliostat.models.predictor import Scores, Shape
from heliostat.models.randomness import Randomness
from heliostat.models.tabular_transformer import TabularTransformer
from heliostat.parallel.apply import is_cut, let_go, load_whole, whole_tensors
from heliostat.parallel.pipeline import finished
from heliostat.spec.model import (
    CustomModel,
    GptModel,
    MlpModel,
    NetworkModel,
    TabularTransformerModel,
)

WEIGHTS = "weights.safetensors"
ROWS_AT_ONCE = 8_192
TOKENS_AT_ONCE = 16_384


def build_network(
    spec: NetworkModel, shape: Shape, randomness: Randomness, code: Path | None
) -> nn.Module:
    """The untrained module; its weights depend on the global torch seed alone.

    Raises:
        UserError: a custom class cannot be imported from `code` or does not take its arguments.
    """
    if isinstance(spec, MlpModel):
        return Mlp(spec, shape, randomness)
    if isinstance(spec, TabularTransformerModel):
        return TabularTransformer(spec, shape, randomness)
    if isinstance(spec, GptModel):
        return Gpt(spec, shape.num_outputs, shape.end, randomness)
    assert isinstance(spec, CustomModel) and code is not None
    return import_class(spec, code, shape)


class NetworkPredictor:
    """A trained network, in evaluation mode."""

    def __init__(self, module: nn.Module, shape: Shape, device: torch.device | str = "cpu") -> None:
        self.module, self.shape, self.device = module.eval(), shape, device

    @torch.no_grad()
    def scores(self, numbers: npt.NDArray[Any], categories: npt.NDArray[Any]) -> Scores:
        """See `Predictor`."""
        with self._scoring():
            parts = [
                self._scores_of(numbers[i : i + ROWS_AT_ONCE], categories[i : i + ROWS_AT_ONCE])
                for i in range(0, len(numbers), ROWS_AT_ONCE)
            ]
        empty = (0,) if self.shape.num_outputs == 1 else (0, self.shape.num_outputs)
        return np.concatenate(parts) if parts else np.empty(empty)

    def _scores_of(self, numbers: npt.NDArray[Any], categories: npt.NDArray[Any]) -> Scores:
        scores = finished(
            self.module,
            torch.from_numpy(np.ascontiguousarray(numbers)).to(self.device),
            torch.from_numpy(np.ascontiguousarray(categories)).to(self.device, torch.int64),
            self.squashed,
        )
        return scores.cpu().numpy()

    def squashed(self, output: Tensor) -> Tensor:
        """Scores from what the module gives: [..., outputs] to [...] or [..., classes]."""
        output = output.double()
        result: Tensor = output.softmax(-1) if self.shape.num_outputs > 1 else output[..., 0]
        if self.shape.task == "binary":
            result = result.sigmoid()
        elif self.shape.link == "log":
            result = result.exp()
        return result

    @torch.no_grad()
    def token_sums(
        self, tokens: npt.NDArray[Any], targets: npt.NDArray[Any], weights: npt.NDArray[Any]
    ) -> Scores:
        """See `TextPredictor`."""
        rows_at_once = max(1, TOKENS_AT_ONCE // max(1, tokens.shape[1]))
        parts = [np.empty((0, 3))]
        with self._scoring():
            for start in range(0, len(tokens), rows_at_once):
                own, wanted, weight = (
                    torch.from_numpy(values[start : start + rows_at_once]).to(self.device)
                    for values in (tokens.astype(np.int64), targets, weights)
                )
                parts.append(self._token_sums_of(own, wanted, weight))
        return np.concatenate(parts)

    def _token_sums_of(self, tokens: Tensor, targets: Tensor, weights: Tensor) -> Scores:
        def sums_of(logits: Tensor) -> Tensor:
            logits = logits.float()
            losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            hits = logits.argmax(-1) == targets
            each = torch.stack([losses.view(targets.shape), hits.float(), torch.ones_like(weights)])
            return (each.double() * weights).sum(-1).T

        no_numbers = tokens.new_empty((len(tokens), 0))
        sums: Scores = finished(self.module, no_numbers, tokens, sums_of).cpu().numpy()
        return sums

    def save(self, folder: Path) -> str:
        """See `Predictor`."""
        return Weights(self.module.state_dict()).save(folder)

    @property
    def is_joint(self) -> bool:
        """See `JointPredictor`."""
        return is_cut(self.module)

    @contextmanager
    def _scoring(self) -> Iterator[None]:
        was_training = self.module.training
        self.module.eval()
        yield
        let_go(self.module)
        self.module.train(was_training)


@dataclass(frozen=True)
class Weights:
    """A trained network's whole weights by name, to be saved."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module, keep: bool) -> Weights:
        """Those of a module that may be cut: then every rank must ask, and those that do not
        `keep` them let go of one before the next.
        """
        whole = whole_tensors(module, module.state_dict())
        return cls({name: tensor.cpu() for name, tensor in whole if keep})

    def save(self, folder: Path) -> str:
        """See `Savable`."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, str(folder / WEIGHTS))
        return WEIGHTS


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights that `save` wrote into a module of the same shape."""
    load_whole(module, load_file(str(path)).items())


def cpu_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state on the CPU, contiguous and whole: of a model that is cut, every
    rank must ask for it.
    """
    return {
        name: tensor.to("cpu", copy=True).contiguous()
        for name, tensor in whole_tensors(module, module.state_dict())
    }
