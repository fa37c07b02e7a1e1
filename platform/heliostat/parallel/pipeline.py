"""A model cut along its depth: each rank holds one stage, the layers between two others'.

A model says what its layers are by `pipeline_units`, the name of the module that holds them in
order, and by three methods that make up its forward pass: `embed(numbers, categories)` before the
layers, `transform(x, categories)` through them, `project(x)` after. What it registers before
the layers belongs to the first stage, what it registers after them to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from heliostat.errors import Problem, UserError

Named = Iterable[tuple[str, Tensor]]
Finish = Callable[[Tensor], Tensor]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MOST_DIMENSIONS = 7


class Elsewhere(nn.Module):
    """Stands where another stage has a module."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """`x` itself."""
        return x


@dataclass
class Stage:
    """The forward pass of a model of which only one stage is here. `begin` is called with the
    numbers of the rows of each micro-batch.
    """

    model: nn.Module
    index: int
    count: int
    group: dist.ProcessGroup
    begin: Callable[[Tensor], object] = field(default=lambda rows: None)

    @property
    def is_first(self) -> bool:
        """Whether it takes the inputs."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether it gives the outputs."""
        return self.index == self.count - 1

    def __call__(self, x: Tensor, categories: Tensor, rows: Tensor) -> Tensor:
        """The first stage takes numbers, the others what the one before has made of them."""
        model: nn.Module = self.model
        self.begin(rows)
        if self.is_first:
            x = model.embed(x, categories)  # type: ignore[operator]
        x = model.transform(x, categories)  # type: ignore[operator]
        output: Tensor = model.project(x) if self.is_last else x  # type: ignore[operator]
        return output

    def finished(self, x: Tensor, categories: Tensor, finish: Finish) -> Tensor:
        """`finish` of the outputs, on every stage: all must ask together, for the same rows."""
        if not self.is_first:
            x = self._received(self.index - 1, x.device)
        x = self.model(x, categories, rows=categories.new_empty(0))
        if not self.is_last:
            self._send(x, self.index + 1)
            return self._told(None, x.device)
        return self._told(finish(x), x.device)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every stage's value, on every stage."""
        total = value.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def _send(self, x: Tensor, target: int) -> None:
        rank = dist.get_global_rank(self.group, target)
        dist.send(_header_of(x), rank, self.group)
        dist.send(x.contiguous(), rank, self.group)

    def _received(self, source: int, device: torch.device) -> Tensor:
        rank = dist.get_global_rank(self.group, source)
        header = _no_header(device)
        dist.recv(header, rank, self.group)
        x = _empty(header)
        dist.recv(x, rank, self.group)
        return x

    def _told(self, x: Tensor | None, device: torch.device) -> Tensor:
        """The last stage's tensor, on all."""
        last = dist.get_global_rank(self.group, self.count - 1)
        header = _no_header(device) if x is None else _header_of(x)
        dist.broadcast(header, last, self.group)
        x = _empty(header) if x is None else x.contiguous()
        dist.broadcast(x, last, self.group)
        return x

    def all_of(self, own: Named) -> Iterator[tuple[str, Tensor]]:
        """Every stage's named tensors, one after another, on every stage. The tensors are whole."""
        held = dict(own)
        entries = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in held.items()]
        listed: list[list[tuple[str, tuple[int, ...], torch.dtype]]] = [
            [] for _ in range(self.count)
        ]
        dist.all_gather_object(listed, entries, self.group)
        device = next(self.model.parameters()).device
        for index, names in enumerate(listed):
            source = dist.get_global_rank(self.group, index)
            for name, shape, dtype in names:
                mine = index == self.index
                tensor = (
                    held[name].to(device).contiguous()
                    if mine
                    else torch.empty(shape, dtype=dtype, device=device)
                )
                dist.broadcast(tensor, source, self.group)
                yield name, tensor


def enter_stage(model: nn.Module, index: int, count: int, group: dist.ProcessGroup) -> None:
    """Leave of `model` the stage `index` of `count`, in place. Names stay what they were.

    Raises:
        UserError: the model does not say how it may be cut, or has too few layers.
    """
    name = getattr(model, "pipeline_units", None)
    if name is None:
        what = f"`{type(model).__name__}` names no `pipeline_units`, the layers of its stages"
        raise UserError(Problem("scale.parallel.pipeline", what, "take `shard`"))
    layers = model.get_submodule(name)
    units = list(layers.named_children())
    before, after = _ends(model, name)
    sizes = [sum(p.numel() for p in unit.parameters()) for _, unit in units]
    sizes[0] += sum(model.get_parameter(n).numel() for n in before)
    sizes[-1] += sum(model.get_parameter(n).numel() for n in after)
    bounds = stage_bounds(sizes, count)
    for number, (child, _) in enumerate(units):
        if not bounds[index] <= number < bounds[index + 1]:
            setattr(layers, child, Elsewhere())
    foreign = ([] if index == 0 else before) + ([] if index == count - 1 else after)
    _leave_out(model, "", set(foreign))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        what = f"stage {index + 1} of {count} holds nothing to train"
        raise UserError(Problem("scale.parallel.pipeline", what, "freeze less, or take `shard`"))
    model.forward = Stage(model, index, count, group)


def stage_of(model: nn.Module) -> Stage | None:
    """The stage that is all there is of `model`; None of a model that is not cut so."""
    return model.forward if isinstance(model.forward, Stage) else None


def finished(model: nn.Module, x: Tensor, categories: Tensor, finish: Finish) -> Tensor:
    """`finish` of what a model gives; if it is cut into stages, that of all of them together."""
    stage = stage_of(model)
    return finish(model(x, categories)) if stage is None else stage.finished(x, categories, finish)


def stage_bounds(sizes: Sequence[int], count: int) -> list[int]:
    """Where to cut layers of `sizes` parameters into `count` stages, [count + 1] ascending: so that
    the largest stage is as small as can be, and none is without parameters.

    Raises:
        UserError: fewer layers have parameters than there are stages.
    """
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    # best[i]: the least largest stage of the first i layers in the stages so far, and its cuts.
    best: dict[int, tuple[int, list[int]]] = {0: (0, [0])}
    for _ in range(count):
        longer: dict[int, tuple[int, list[int]]] = {}
        for start, (largest, cuts) in best.items():
            for end in range(start + 1, len(ends)):
                size = ends[end] - ends[start]
                found = (max(largest, size), [*cuts, end])
                if size and (end not in longer or found < longer[end]):
                    longer[end] = found
        best = longer
    if len(sizes) not in best:
        what = f"{sum(size > 0 for size in sizes)} layers with parameters make no {count} stages"
        raise UserError(Problem("scale.parallel.pipeline", what, "lower it"))
    return best[len(sizes)][1]


def _ends(model: nn.Module, units: str) -> tuple[list[str], list[str]]:
    """The names of the parameters before the layers, and after."""
    names = [name for name, _ in model.named_parameters()]
    inside = [i for i, name in enumerate(names) if name.startswith(f"{units}.")]
    assert inside == list(range(inside[0], inside[-1] + 1))
    return names[: inside[0]], names[inside[-1] + 1 :]


def _leave_out(module: nn.Module, prefix: str, foreign: set[str]) -> None:
    """Replace the largest modules that hold nothing but what is elsewhere."""
    for name, child in list(module.named_children()):
        path = f"{prefix}{name}"
        held = [f"{path}.{inner}" for inner, _ in child.named_parameters()]
        if held and foreign.issuperset(held):
            setattr(module, name, Elsewhere())
        elif not foreign.isdisjoint(held):
            _leave_out(child, f"{path}.", foreign)


def _header_of(x: Tensor) -> Tensor:
    """What must be known of a tensor to receive it: its type, and the lengths of its dimensions."""
    header = _no_header(x.device)
    header[: 1 + x.dim()] = torch.tensor([DTYPES.index(x.dtype), *x.shape])
    return header


def _no_header(device: torch.device) -> Tensor:
    return torch.full((1 + MOST_DIMENSIONS,), -1, dtype=torch.int64, device=device)


def _empty(header: Tensor) -> Tensor:
    dtype, *lengths = [value for value in header.tolist() if value >= 0]
    return torch.empty(lengths, dtype=DTYPES[dtype], device=header.device)
