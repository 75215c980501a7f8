"""Network weights on disk: written whole or not at all, read without running code from the file, fitted strictly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.errors import BadInputError, ModelError
from lib.files import atomic_write

_PLAIN = (str, int, float, bool, type(None))
_SHOWN = 3


def save_weights(path: str | Path, network: nn.Module, meta: Mapping[str, Any] | None = None) -> None:
    """Write `{"model": state_dict, "meta": meta}` to `path`, atomically; tensors are stored on the CPU.

    Args:
        path: the file, usually `.pt`.
        network: whose weights to write.
        meta: what to remember with them: dicts with text keys, lists, tuples, text, numbers, booleans, None.

    Raises:
        BadInputError: `meta` holds something else, which could not be read back safely.
        StorageError: the disk refused the write.
    """
    meta = dict(meta or {})
    _check_plain(meta, "meta")
    state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    with atomic_write(path) as temporary:
        torch.save({"model": state, "meta": meta}, temporary)


def load_weights(path: str | Path, network: nn.Module) -> dict[str, Any]:
    """Put the weights of `path` into `network`; it is unchanged if they don't fit.

    Reads what `save_weights` writes, `{"model": state_dict, ...}` as MONAI Label's checkpoints are, and a bare state
    dict. Tensors of another precision (float16, float64) are converted to the network's.

    Args:
        path: the file.
        network: must have exactly the tensors of the file, by name and shape.

    Returns:
        The `meta` that was saved; empty if the file has none.

    Raises:
        ModelError: the file is missing, is no checkpoint, or its tensors do not fit the network.
    """
    path = Path(path)
    content = _read(path)
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        msg = f"{path} is no checkpoint: it holds neither a state dict nor one under the key 'model'"
        raise ModelError(msg)
    _check_fit(path, state, network)
    network.load_state_dict(dict(state), strict=True)
    return _meta(content)


def read_meta(path: str | Path) -> dict[str, Any]:
    """The `meta` that was saved with weights; empty if the file has none.

    Raises:
        ModelError: the file is missing or no checkpoint.
    """
    return _meta(_read(Path(path)))


def _meta(content: Mapping[str, Any]) -> dict[str, Any]:
    meta = content.get("meta")
    return dict(meta) if isinstance(meta, Mapping) else {}


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        msg = f"there is no weights file {path}"
        raise ModelError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle or zip can raise almost anything
        reason = (str(error).splitlines() or [""])[0][:120]
        msg = f"{path} is no checkpoint that can be read safely ({type(error).__name__}: {reason})"
        raise ModelError(msg) from error
    if not isinstance(content, Mapping):
        msg = f"{path} is no checkpoint: it holds a {type(content).__name__}, not a dict"
        raise ModelError(msg)
    return content


def _check_fit(path: Path, state: Mapping[str, Tensor], network: nn.Module) -> None:
    expected = network.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    different = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", different))
        if names
    ]
    if problems:
        msg = f"the weights in {path} do not fit {type(network).__name__}: {'; '.join(problems)}"
        raise ModelError(msg)


def _check_plain(value: object, where: str) -> None:
    # Exact types: a numpy float is a float, too, but is not stored as one.
    if type(value) in _PLAIN:
        return
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                msg = f"{where} has the key {key!r}; keys must be text"
                raise BadInputError(msg)
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, item in enumerate(value):  # type: ignore[arg-type, var-annotated]
            _check_plain(item, f"{where}[{position}]")
    else:
        msg = f"{where} is a {type(value).__name__}; only dicts, lists, text, numbers, booleans and None can be stored"
        raise BadInputError(msg)
