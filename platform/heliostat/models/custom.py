"""A torch module of the user's own: imported by its path from `code:`, from nowhere else."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from heliostat.catalog.code import import_from
from heliostat.errors import Problem, UserError
from heliostat.models.predictor import Shape
from heliostat.spec.model import CustomModel


def import_class(spec: CustomModel, code: Path, shape: Shape) -> nn.Module:
    """`spec.class_` from the folder `code`, built as `Class(shape, **args)`.

    The module is called with `numbers` [rows, numbers] float32 and `categories`
    [rows, categories] int64, after which come the tokens of texts (see `Shape`), and returns
    [rows, shape.num_outputs].

    Raises:
        UserError: the class is not there, or does not take the arguments.
    """
    module_name, _, class_name = spec.class_.partition(":")
    module = import_from(code.resolve(), module_name, "model.class")
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise _problem(spec, f"`{module_name}` holds no torch module called `{class_name}`")
    try:
        return cls(shape, **spec.args)
    except TypeError as error:
        raise _problem(spec, f"it does not take these arguments: {error}") from error


def _problem(spec: CustomModel, message: str) -> UserError:
    return UserError(Problem("model.class", f"`{spec.class_}`: {message}"))
