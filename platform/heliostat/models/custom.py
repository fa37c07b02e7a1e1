"""A torch module of the user's own: imported by its path from `code:`, from nowhere else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from heliostat.errors import Problem, UserError
from heliostat.models.predictor import Shape
from heliostat.spec.model import CustomModel


def import_class(spec: CustomModel, code: Path, shape: Shape) -> nn.Module:
    """`spec.class_` from the folder `code`, built as `Class(shape, **args)`.

    The module is called with `numbers` [rows, numbers] float32 and `categories`
    [rows, categories] int64 and returns [rows, shape.num_outputs].

    Raises:
        UserError: the class is not there, or does not take the arguments.
    """
    module_name, _, class_name = spec.class_.partition(":")
    module = _import_from(code.resolve(), module_name)
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise _problem(spec, f"`{module_name}` holds no torch module called `{class_name}`")
    try:
        return cls(shape, **spec.args)
    except TypeError as error:
        raise _problem(spec, f"it does not take these arguments: {error}") from error


def _import_from(code: Path, name: str) -> ModuleType:
    """Import `name` with `code` first on the path, dropping a copy from another folder."""
    top = name.partition(".")[0]
    if not ((code / top).is_dir() or (code / f"{top}.py").is_file()):
        raise UserError(Problem("model.class", f"`{top}` does not lie in {code}"))
    loaded = sys.modules.get(top)
    if loaded is not None and not _lies_in(loaded, code):
        for other in [key for key in sys.modules if key == top or key.startswith(top + ".")]:
            del sys.modules[other]
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's own module may fail in any way
        text = f"`{name}` cannot be imported from {code}: {type(error).__name__}: {error}"
        raise UserError(Problem("model.class", text)) from error
    finally:
        sys.path.remove(str(code))


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(place and Path(place).resolve().is_relative_to(folder) for place in places)


def _problem(spec: CustomModel, message: str) -> UserError:
    return UserError(Problem("model.class", f"`{spec.class_}`: {message}"))
