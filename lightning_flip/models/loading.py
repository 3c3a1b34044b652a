"""Models that are run and never trained: from a module, a checkpoint, a state_dict or a torchvision name."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_flip.models._pretrained import TORCHVISION, torchvision_model, torchvision_network
from lightning_flip.models._weights import find_state_dict, fit_state_dict, mismatch, paths_allowed, read_weights

__all__ = ["ModelSource", "is_lightning_class", "load_model", "options_called"]

ModelSource = nn.Module | str | os.PathLike[str]


def is_lightning_class(cls: Any) -> bool:
    """Whether a class is a LightningModule, of ``lightning`` or of ``pytorch_lightning``; neither knows the other's."""
    return isinstance(cls, type) and any(part.__name__ == "LightningModule" for part in cls.__mro__)


def load_model(
    source: ModelSource,
    *,
    model_class: type[LightningModule] | str | None = None,
    network: nn.Module | str | None = None,
) -> nn.Module:
    """Load a model to run it: frozen, in eval mode, on the CPU, and a copy of its own.

    Files are read with ``weights_only=True``, so that no code in them is run. The random state does not change.

    Args:
        source: one of

            - a module; it is copied and stays as it is;
            - the path of a Lightning checkpoint. One that LightningCLI (``lightning-flip fit``) saved names its class
              and is rebuilt without ``model_class``; any other needs it;
            - the path of a state_dict, alone or under ``state_dict``, ``model_state_dict`` or ``model``, or of a
              Lightning checkpoint whose hyperparameters do not suffice, together with ``network``. A prefix of all
              of the network's names (``network.``) is removed;
            - ``"torchvision:resnet18:DEFAULT"`` or ``"torchvision:resnet18:IMAGENET1K_V1"``: torchvision's weights.
        model_class: the LightningModule class of a checkpoint, or its import path; it gets ``network``, if given.
        network: the architecture of the weights: a module (it is copied), or ``"torchvision:resnet18"``. Without
            ``model_class`` the network alone is loaded.

    Returns:
        The model: of the class that was saved, or the network alone.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if an argument has the wrong type.
        ValueError: if the source is not readable, cannot be rebuilt, does not fit, or is unknown to torchvision.

    Example:
        >>> from lightning_flip.models import MLP
        >>> network = MLP(4, 3)
        >>> old = load_model(network)
        >>> old.training, any(weight.requires_grad for weight in old.parameters()), network.training
        (False, False, True)
    """
    if network is not None and not isinstance(network, (nn.Module, str)):
        raise TypeError(f"network must be a module or a torchvision name, got a {type(network).__name__}.")
    with _apart():
        if isinstance(source, nn.Module):
            _refuse_network(network, "a module")
            model = _copied(source)
        elif isinstance(source, str) and source.startswith(TORCHVISION):
            _refuse_network(network, "a torchvision name")
            model = torchvision_model(source)
        elif isinstance(source, (str, os.PathLike)):
            model = _from_file(Path(source), _resolved(model_class), network)
        else:
            raise TypeError(
                f"expected a module, the path of a checkpoint or state_dict, or {TORCHVISION}NAME:WEIGHTS; got a "
                f"{type(source).__name__}."
            )
    return model.requires_grad_(False).cpu().eval()


@contextlib.contextmanager
def options_called(**names: str) -> Iterator[None]:
    """Within, errors about options of :func:`load_model` use the caller's ``names`` for them."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise  # one with arguments of its own
        text = str(error)
        for option, name in names.items():
            text = re.sub(rf"\b{option}\b(?==| must)", name, text)
        raise type(error)(text) from error.__cause__


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Keep what is built inside and what the program builds around it from influencing each other."""
    # Inside of LightningCLI the model that is being built would lend its hyperparameters to the one that is loaded.
    given = _given_hyperparameters.set(None)
    try:
        with isolate_rng(include_cuda=False):
            yield
    finally:
        _given_hyperparameters.reset(given)


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(getattr(module, "_orig_mod", module))
    except Exception as error:
        raise ValueError(
            f"the {type(module).__name__} cannot be copied ({error}). Remove what it keeps of a running "
            "graph, or pass the path of its checkpoint."
        ) from error


def _from_file(path: Path, model_class: type[LightningModule] | None, network: nn.Module | str | None) -> nn.Module:
    content = read_weights(path)
    state = find_state_dict(content)
    if state is None:
        listed = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise ValueError(f"{path} is neither a checkpoint nor a state_dict: it holds no tensors by name, but {listed}.")
    is_checkpoint = "pytorch-lightning_version" in content
    if network is not None:
        built = torchvision_network(network) if isinstance(network, str) else _copied(network)
        if is_checkpoint and model_class is not None:
            # The class may do more than its network, normalize for example: the network alone would not be the model.
            if not _takes_network(model_class):
                raise ValueError(
                    f"{model_class.__name__} takes no network=, and {path} is a checkpoint. Leave network out; or "
                    "leave model_class out, and the network alone is loaded."
                )
            return _from_checkpoint(path, content, model_class, network=built)
        fit_state_dict(built, state, str(path))
        return built
    if is_checkpoint:
        return _from_checkpoint(path, content, model_class)
    raise ValueError(
        f"{path} holds weights without the network that they belong to. Pass network=, a module or a torchvision name "
        f'such as "{TORCHVISION}resnet18".'
    )


def _from_checkpoint(
    path: Path, content: dict[str, Any], model_class: type[LightningModule] | None, **options: Any
) -> nn.Module:
    named = content.get("hyper_parameters", {}).get("_class_path")
    if named is not None:
        found = _imported(named)
        if found is None and model_class is None:
            raise ValueError(
                f"{path} is a checkpoint of the class {named}, which is not imported, and importing runs code: import "
                f'its module before, or pass model_class="{named}".'
            )
        if found is None and model_class is not None:  # it was moved, or was in the script that was run then
            options["_class_path"] = f"{model_class.__module__}.{model_class.__qualname__}"
        model_class = found or model_class
    if model_class is None:
        raise ValueError(
            f"{path} is a Lightning checkpoint that does not say of which class. Pass model_class=, the "
            "LightningModule class or its import path; or network=, the network alone."
        )
    if "weights_only" in inspect.signature(model_class.load_from_checkpoint).parameters:
        options["weights_only"] = True  # else read_weights has done so already
    try:
        with paths_allowed():
            return model_class.load_from_checkpoint(path, map_location="cpu", **options)
    except Exception as error:
        if "in loading state_dict" in str(error):
            raise ValueError(f"{path} does not fit {model_class.__name__}: {mismatch(str(error))}") from error
        raise ValueError(
            f"{path} cannot be rebuilt as {model_class.__name__} from the hyperparameters in it ({error}). Pass "
            "model_class=, if another class saved it; or network=, the network without its weights; or the model "
            "itself, a module that you loaded; or save the model by LightningCLI (lightning-flip fit), whose "
            "checkpoints rebuild by themselves."
        ) from error


def _imported(class_path: str) -> type[LightningModule] | None:
    module, _, name = class_path.rpartition(".")
    if module.split(".")[0] == "lightning_flip":
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    found = getattr(sys.modules.get(module), name, None)
    return found if is_lightning_class(found) else None


def _resolved(model_class: type[LightningModule] | str | None) -> type[LightningModule] | None:
    found: Any = model_class
    if isinstance(model_class, str):
        module, _, name = model_class.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"model_class={model_class!r} cannot be imported: {error}. Give the whole path, such as "
                '"lightning_flip.models.Classifier".'
            ) from error
    if found is not None and not is_lightning_class(found):
        raise TypeError(f"model_class must be a LightningModule class or its import path, got {found!r}.")
    resolved: type[LightningModule] | None = found
    return resolved


def _takes_network(model_class: type) -> bool:
    inits = [vars(part)["__init__"] for part in model_class.__mro__ if "__init__" in vars(part)]
    return any("network" in inspect.signature(init).parameters for init in inits if inspect.isfunction(init))


def _refuse_network(network: object, source: str) -> None:
    if network is not None:
        raise ValueError(
            f"network= gives the architecture for a file of weights; here the source is {source}; leave it out."
        )
