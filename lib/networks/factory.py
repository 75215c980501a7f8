"""A 2D segmentation network by name, as `app.yaml` chooses it."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lib.errors import SettingsError
from lib.networks.unet import MulticlassUNet

_OURS: dict[str, type[nn.Module]] = {"MulticlassUNet": MulticlassUNet}


def build_network(
    name: str, in_channels: int, out_channels: int, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a new network with random weights.

    Args:
        name: "MulticlassUNet" or the name of a class in `monai.networks.nets`, such as "UNet" or "AttentionUnet".
        in_channels: channels of the image.
        out_channels: classes, background included.
        arguments: what else its constructor takes. `in_channels`, `out_channels` and `spatial_dims=2` are added
            where it takes them, so they can't be among these.

    Returns:
        The network, in training mode.

    Raises:
        SettingsError: there is no such network, or it refuses the arguments.
    """
    network_class = _find_class(name)
    arguments = dict(arguments or {})
    added = {"spatial_dims": 2, "in_channels": in_channels, "out_channels": out_channels}
    forbidden = [key for key in arguments if key in added]
    if forbidden:
        msg = f"remove {', '.join(forbidden)} from the arguments of the network {name}: windows and labels decide them"
        raise SettingsError(msg)
    accepted = inspect.signature(network_class).parameters
    unknown = [key for key in arguments if key not in accepted]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        choices = [key for key in accepted if key not in added]
        msg = f"the network {name} has no argument {unknown[0]!r}; it has {', '.join(choices) or 'none'}"
        raise SettingsError(msg)
    arguments |= {key: value for key, value in added.items() if key in accepted}
    return _construct(name, network_class, arguments)


def _find_class(name: str) -> type[nn.Module]:
    if name in _OURS:
        return _OURS[name]
    import monai.networks.nets  # several seconds, which most runs of a script need not wait for

    names = [*_OURS, *(key for key, value in vars(monai.networks.nets).items() if _is_network(value))]
    if name in names:
        return getattr(monai.networks.nets, name)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "use MulticlassUNet or a class of monai.networks.nets"
    msg = f"there is no network {name!r}; {hint}"
    raise SettingsError(msg)


def _is_network(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def _construct(name: str, network_class: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return network_class(**arguments)
    except Exception as error:  # whatever a constructor raises on a wrong value is a wrong setting
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = f"the network {name} can't be built from {dict(arguments)}: {reason}"
        raise SettingsError(msg) from error
