"""timm backbones: built with random or stored weights, for a size and a number of labels."""

import difflib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.data import resolve_data_config
from torch import nn

from gbif_platform.errors import PlatformError
from gbif_platform.training.preprocess import Preprocess

HUB_TIMEOUT = 5.0  # seconds; the hub's own client would retry for most of a minute
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class UnknownBackboneError(PlatformError):
    """The backbone is no model of timm."""


class WeightsError(PlatformError):
    """Pretrained weights cannot be had, or do not fit the backbone."""


class PictureSizeError(PlatformError):
    """The backbone cannot take pictures of the wished size."""


def check_backbone(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        UnknownBackboneError: lists the closest names.
    """
    base, _, tag = name.partition(".")
    if timm.is_model(base):
        known = [model for model in timm.list_pretrained(f"{base}.*") if model.startswith(f"{base}.")]
        if not tag or name in known:
            return
    else:
        known = timm.list_models()
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or ["resnet18"]
    raise UnknownBackboneError(
        f"backbone {name!r} is no timm model; close: {', '.join(close)}",
        "take one of these, or any name from timm.list_models()",
    )


def preprocess_for(backbone: str, image_size: int | None = None) -> Preprocess:
    """The preprocessing that timm's `backbone` was made for, at `image_size` pixels or at its own size.

    Raises:
        UnknownBackboneError: no such backbone.
    """
    check_backbone(backbone)
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(backbone).to_dict())
    interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    size = image_size or config["input_size"][-1]
    return Preprocess(size, tuple(config["mean"]), tuple(config["std"]), interpolation, float(config["crop_pct"]))


def create_backbone(backbone: str, classes: int, size: int, pretrained: bool | str = False) -> nn.Module:
    """A timm network with `classes` outputs for pictures of `size` pixels, channels last, in training mode.

    Args:
        backbone: timm's name.
        classes: number of outputs.
        size: side of the input, pixels.
        pretrained: False = random weights; True = timm's, from the hub or its cache; a path = a weights file.

    Raises:
        UnknownBackboneError: no such backbone.
        WeightsError: the weights are not at hand and the hub is out of reach, or the file does not fit.
        PictureSizeError: the backbone refuses this picture size.
    """
    check_backbone(backbone)
    arguments: dict[str, Any] = {"num_classes": classes}
    if timm.get_pretrained_cfg(backbone).fixed_input_size:
        arguments["img_size"] = size
    if pretrained is False:
        try:
            network = timm.create_model(backbone, **arguments)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise PictureSizeError(*_size_trouble(backbone, size, error)) from error
    else:
        network = _create_pretrained(backbone, pretrained, arguments)
    _check_size(network, backbone, size)
    return network.to(memory_format=torch.channels_last)


def _create_pretrained(backbone: str, pretrained: bool | str, arguments: dict[str, Any]) -> nn.Module:
    trouble = f"start weights {pretrained!r} do not fit {backbone}"
    remedy = "give weights of the same backbone, or pretrained: false"
    source = _weights_source(backbone, pretrained)
    generator = torch.get_rng_state()
    try:
        network = timm.create_model(backbone, pretrained=True, **arguments, **source)
    except (RuntimeError, OSError, ValueError, KeyError, AssertionError) as error:
        raise WeightsError(f"{trouble}: {_first_line(error)}", remedy) from error
    # timm takes another network's weights without a word: most layers must differ from the same random start.
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator)
        random = dict(timm.create_model(backbone, **arguments).named_parameters())
    weights = {name: value for name, value in network.named_parameters() if value.ndim > 1}
    untouched = [name for name, value in weights.items() if torch.equal(value, random[name])]
    if 2 * len(untouched) > len(weights):
        raise WeightsError(f"{trouble}: {len(untouched)} of {len(weights)} layers are not in them", remedy)
    return network


def _weights_source(backbone: str, pretrained: bool | str) -> dict[str, Any]:
    """timm's arguments for a weights file, for the hub's cache (no network), or none: the hub itself."""
    if isinstance(pretrained, str):
        path = Path(pretrained).expanduser()
        if not path.is_file():
            raise WeightsError(f"weights file {path} does not exist", "give the path of a .safetensors or .pth file")
        return {"pretrained_cfg_overlay": {"file": str(path)}}
    cached = _cached_weights(timm.get_pretrained_cfg(backbone))
    if cached is not None:
        return {"pretrained_cfg_overlay": {"file": cached}}
    _require_hub(backbone)
    return {}


def _check_size(network: nn.Module, backbone: str, size: int) -> None:
    """One grey picture through the network: a wrong size fails here, in words, not in the first batch."""
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise PictureSizeError(*_size_trouble(backbone, size, error)) from error
    network.train()


def _size_trouble(backbone: str, size: int, error: BaseException) -> tuple[str, str]:
    return (
        f"backbone {backbone} cannot take pictures of {size} px: {_first_line(error)}",
        "leave image_size empty for the backbone's own size, or choose a multiple of 32",
    )


def _cached_weights(config: Any) -> str | None:
    """The file in the hub's local cache, which needs no network."""
    repository = config.hf_hub_id
    if not repository:
        return None
    for name in WEIGHT_FILES:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return path
    return None


def _require_hub(backbone: str) -> None:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    reason: object = "HF_HUB_OFFLINE is set"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("", "0", "false", "no"):
        try:
            request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the user's own setting
            urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()  # noqa: S310
            return
        except urllib.error.HTTPError:
            return  # it answers
        except (OSError, ValueError) as error:
            reason = error
    raise WeightsError(
        f"the weights of {backbone} are not on this machine and {endpoint} is out of reach ({reason})",
        "set pretrained to a local weights file, or to false to start from random weights",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
