"""Bundles of a small network with random weights, and ones that are like another but for something."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gbif_platform.training.backbone import create_backbone, preprocess_for
from gbif_platform.training.bundle import Bundle, Provenance, head_of, load_bundle, save_bundle
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.run import TrainResult
from gbif_platform_tests.training.conftest import TINY
from gbif_platform_tests.training.shards import PATTERNS

PROVENANCE = Provenance("toy", "2026-10", lake_version=7, doi="10.15468/dl.toy", licences={"CC0-1.0": 50})


def random_bundle(
    folder: Path, *, labels: list[str] = PATTERNS, taxonomy: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> Bundle:
    """A bundle as of a training of no epochs, in float32 unless `precision` says otherwise."""
    spec = ModelSpec(**{**TINY, "precision": "32-true", **settings})
    preprocess = preprocess_for(spec.backbone, spec.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = create_backbone(spec.backbone, len(labels), preprocess.size, **head_of(vars(spec)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights = folder.with_name(f"{folder.name}.safetensors")
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)
    counts = [100 // (place + 1) for place in range(len(labels))]
    result = TrainResult(weights, preprocess, counts, 1, 0, [], 0.0)
    bundle = save_bundle(folder, result, spec, labels, PROVENANCE, taxonomy)
    weights.unlink()
    return bundle


def rewritten(bundle: Bundle, folder: Path, *, weights: Path | None = None, **changes: Any) -> Bundle:
    """A copy of a bundle in `folder` with other weights, or other values in its description (None = left out)."""
    shutil.copytree(bundle.folder, folder)
    if weights is not None:
        shutil.copyfile(weights, folder / "model.safetensors")
    description = json.loads((folder / "bundle.json").read_text())
    description |= changes
    description["weights_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    kept = {name: value for name, value in description.items() if value is not None}
    (folder / "bundle.json").write_text(json.dumps(kept))
    return load_bundle(folder)
