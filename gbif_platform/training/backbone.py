"""timm backbones: built with random or stored weights, for a size and a number of labels."""

import difflib
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.data import resolve_data_config
from timm.models import load_state_dict
from torch import nn

from gbif_platform.errors import PlatformError
from gbif_platform.training.head import BACKBONE, Head, Network
from gbif_platform.training.preprocess import Preprocess

HUB_TIMEOUT = 5.0  # seconds; the hub's own client would retry for most of a minute
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class UnknownBackboneError(PlatformError):
    """The backbone is no model of timm."""


class WeightsError(PlatformError):
    """Pretrained weights cannot be had, or do not fit the backbone."""


class PictureSizeError(PlatformError):
    """The backbone cannot take pictures of the wished size."""


class PoolingError(PlatformError):
    """The backbone cannot pool its features as wished."""


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


def create_backbone(
    backbone: str,
    classes: int,
    size: int,
    pretrained: bool | str = False,
    *,
    pooling: str | None = None,
    hidden: int | None = None,
    dropout: float = 0.0,
) -> Network:
    """A timm network with `classes` outputs for pictures of `size` pixels, channels last, in training mode.

    Args:
        backbone: timm's name.
        classes: number of outputs.
        size: side of the input, pixels.
        pretrained: False = random weights; True = timm's, from the hub or its cache; a path = a weights file of the
            same backbone, timm's or a bundle's. The head always starts at random.
        pooling: `avg`, `max` or `avgmax` over the feature map; None = the backbone's own.
        hidden: width of a hidden ReLU layer in the head; None = none.
        dropout: before each layer of the head.

    Raises:
        UnknownBackboneError: no such backbone.
        WeightsError: the weights are not at hand and the hub is out of reach, or the file does not fit.
        PictureSizeError: the backbone refuses this picture size.
        PoolingError: the backbone cannot pool this way.
    """
    check_backbone(backbone)
    arguments: dict[str, Any] = {"num_classes": 0}
    if timm.get_pretrained_cfg(backbone).fixed_input_size:
        arguments["img_size"] = size
    if pretrained is False:
        try:
            body = timm.create_model(backbone, **arguments)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise PictureSizeError(*_size_trouble(backbone, size, error)) from error
    else:
        body = _create_pretrained(backbone, pretrained, arguments)
    if pooling is not None:
        _set_pooling(body, backbone, pooling)
    network = Network(body, Head(_features(body, backbone, size), classes, hidden, dropout))
    return network.to(memory_format=torch.channels_last)


def load_matching(
    network: Network, weights: Mapping[str, torch.Tensor], labels_old: Sequence[str], labels_new: Sequence[str]
) -> int:
    """Start `network` from a trained model: its backbone, and of its head what stands for the same labels.

    Args:
        network: of len(labels_new) outputs, already at its random start.
        weights: the other model's state, of the same backbone.
        labels_old, labels_new: the labels of the outputs, there and here.

    Returns:
        Labels whose outputs were taken over; 0 where the heads differ in shape (then only the backbone is).

    Raises:
        WeightsError: another backbone, or one for pictures of another size.
    """
    weights = network.own_names(weights)
    body = {name.removeprefix(BACKBONE): value for name, value in weights.items() if name.startswith(BACKBONE)}
    head = {name.removeprefix("head."): value for name, value in weights.items() if name.startswith("head.")}
    try:
        network.backbone.load_state_dict(body)
    except RuntimeError as error:
        raise WeightsError(
            f"the earlier model's backbone does not fit this one: {_detail(error)}",
            "set warm_start: false, or take the earlier model's backbone, image_size and pooling",
        ) from error
    return network.head.take_rows(head, labels_old, labels_new)


def _create_pretrained(backbone: str, pretrained: bool | str, arguments: dict[str, Any]) -> nn.Module:
    trouble = f"start weights {pretrained!r} do not fit {backbone}"
    remedy = "give weights of the same backbone, or pretrained: false"
    source = _weights_source(backbone, pretrained)
    generator = torch.get_rng_state()
    try:
        network = timm.create_model(backbone, pretrained=True, **arguments, pretrained_cfg_overlay=source)
    except (RuntimeError, OSError, ValueError, KeyError, AssertionError) as error:
        raise WeightsError(f"{trouble}: {_detail(error)}", remedy) from error
    network.pretrained_cfg.pop("state_dict", None)  # timm would keep a second copy of all weights there
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
    """timm's overlay for weights out of a file or the hub's cache (no network), or none: the hub itself."""
    if isinstance(pretrained, str):
        return {"state_dict": _read_weights(Path(pretrained).expanduser())}
    cached = _cached_weights(timm.get_pretrained_cfg(backbone))
    if cached is not None:
        return {"file": cached}
    _require_hub(backbone)
    return {}


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A file's state under timm's names; a bundle's loses its head. Nothing in it is run (no pickled code)."""
    remedy = "give the path of a .safetensors or .pth file of weights"
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist", remedy)
    try:
        weights = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises anything on junk: KeyError, IndexError, struct.error, …
        trouble = f"{type(error).__name__}: {_first_line(error)}"
        raise WeightsError(f"weights file {path} cannot be read: {trouble}", remedy) from error
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise WeightsError(f"weights file {path} holds no state of a model", remedy)
    body = {name.removeprefix(BACKBONE): value for name, value in weights.items() if name.startswith(BACKBONE)}
    return body or weights


def _set_pooling(body: nn.Module, backbone: str, pooling: str) -> None:
    """After the weights are loaded: some transformers have other layers where they are built to pool otherwise."""
    try:
        body.reset_classifier(0, pooling)  # type: ignore[operator]
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise PoolingError(
            f"backbone {backbone} cannot pool by {pooling!r}: {_first_line(error)}",
            "leave pooling empty for the backbone's own, or take avg",
        ) from error


def _features(body: nn.Module, backbone: str, size: int) -> int:
    """The width of the embedding, by one grey picture: a wrong size fails here, in words, not in the first batch."""
    body.eval()
    try:
        with torch.no_grad():
            embedding = body(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise PictureSizeError(*_size_trouble(backbone, size, error)) from error
    body.train()
    if embedding.ndim != 2:
        raise PoolingError(f"backbone {backbone} does not pool its features", "take another backbone")
    return embedding.shape[1]


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


def _detail(error: BaseException) -> str:
    """torch says on the first line only that something is wrong, and what on the next."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    return " ".join(lines[:2])[:300]
