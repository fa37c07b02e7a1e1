"""Transfer learning: begin with the weights of another model, and keep some of them."""

from __future__ import annotations

from fnmatch import fnmatchcase

from safetensors.torch import load_file
from torch import Tensor, nn

from heliostat.errors import Problem, UserError
from heliostat.storage.cache import local_copy
from heliostat.storage.objects import ObjectPath, as_path


def begin_from(model: nn.Module, location: str) -> str:
    """Load the weights whose names and shapes fit, from a model folder, a folder of safetensors,
    or one such file; a sentence about what did.

    Raises:
        UserError: nothing there fits.
    """
    found = _tensors(location)
    own = model.state_dict()
    taken = {
        name: tensor.to(own[name].dtype)
        for name, tensor in found.items()
        if name in own and own[name].shape == tensor.shape
    }
    if not taken:
        shown = ", ".join(sorted(found)[:4])
        message = f"none of its {len(found)} weights ({shown}, ...) fits this model"
        raise UserError(Problem("model.init_from", f"`{location}`: {message}"))
    model.load_state_dict(taken, strict=False)
    left = sorted(set(own) - set(taken))
    rest = f"; new: {', '.join(left[:6])}{', ...' if len(left) > 6 else ''}" if left else ""
    return f"begins with {len(taken)} of {len(own)} weights of {location}{rest}"


def freeze(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Take the parameters whose names fit out of training.

    Raises:
        UserError: a pattern fits none, or nothing is left to train.
    """
    for pattern in patterns:
        fitting = [p for name, p in model.named_parameters() if fnmatchcase(name, pattern)]
        if not fitting:
            names = ", ".join(name for name, _ in model.named_parameters())
            raise UserError(Problem("model.freeze", f"`{pattern}` fits none of {names}"))
        for parameter in fitting:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(Problem("model.freeze", "leaves nothing to train"))


def _tensors(location: str) -> dict[str, Tensor]:
    path = as_path(location)
    if path.name.endswith(".safetensors"):
        folder = local_copy(path.parent) if isinstance(path, ObjectPath) else path.parent
        files = [folder / path.name]
    else:
        files = sorted(local_copy(path).glob("*.safetensors"))
    if not files or not files[0].is_file():
        raise UserError(Problem("model.init_from", f"`{location}` holds no safetensors"))
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(str(file))
    return tensors
