import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from gbif_platform.training import export_onnx as module
from gbif_platform.training.bundle import Bundle, with_calibration
from gbif_platform.training.export_onnx import ExportError, export_onnx, export_torch, metadata
from gbif_platform.training.predict import Inference
from gbif_platform_tests.training.bundles import random_bundle

TAXONOMY = {"vertical": {"family": "Stripes", "taxon_key": "77"}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    random_bundle(folder, taxonomy=TAXONOMY, hidden=9, pooling="avgmax")
    return with_calibration(folder, 1.25, 0.5)


@pytest.fixture(scope="module")
def pictures(bundle: Bundle) -> np.ndarray:
    size = bundle.preprocess.size
    return np.random.default_rng(9).integers(0, 256, (5, 3, size, size), dtype=np.uint8)


def agree(bundle: Bundle, pictures: np.ndarray, logits: np.ndarray, embedding: np.ndarray) -> bool:
    wanted, features = Inference(bundle, "cpu")(torch.from_numpy(pictures))
    unit = torch.nn.functional.normalize(features, dim=1)
    return np.allclose(logits, wanted, atol=1e-4) and np.allclose(embedding, unit, atol=1e-4)


def test_onnx_answers_as_the_bundle_for_any_number_of_pictures(
    bundle: Bundle, pictures: np.ndarray, tmp_path: Path
) -> None:
    exported = export_onnx(bundle, tmp_path / "new" / "model.onnx")
    assert exported.logit_difference < 1e-4
    assert exported.embedding_difference < 1e-4
    assert exported.bytes == exported.path.stat().st_size
    assert [path.name for path in exported.path.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        logits, embedding = session.run(None, {"images": pictures[:count]})
        assert agree(bundle, pictures[:count], logits, embedding)
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    (given,) = session.get_inputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [3, 32, 32])
    onnx.checker.check_model(onnx.load(exported.path))
    said = session.get_modelmeta().custom_metadata_map
    assert {name: said[name] for name in metadata(bundle)} == metadata(bundle)
    assert json.loads(said["labels"]) == bundle.labels
    assert json.loads(said["class_counts"]) == bundle.class_counts
    assert json.loads(said["taxonomy"]) == TAXONOMY
    assert json.loads(said["provenance"])["licences"] == {"CC0-1.0": 50}
    assert float(said["temperature"]) == 1.25


def test_torch_export_answers_as_the_bundle(bundle: Bundle, pictures: np.ndarray, tmp_path: Path) -> None:
    exported = export_torch(bundle, tmp_path / "model.pt2")
    assert exported.logit_difference < 1e-4
    extra = {"model.json": ""}
    module = torch.export.load(exported.path, extra_files=extra).module()
    for count in (1, 5):
        logits, embedding = module(torch.from_numpy(pictures[:count]))
        assert agree(bundle, pictures[:count], logits.detach().numpy(), embedding.detach().numpy())
    assert json.loads(extra["model.json"]) == metadata(bundle)


def test_a_file_that_answers_otherwise_is_not_kept(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(module.Exportable):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits, embedding = super().forward(images)
            return logits + 0.01, embedding

    monkeypatch.setattr(module, "Exportable", Wrong)
    with pytest.raises(ExportError, match=r"model\.pt2 answers otherwise.*0\.01"):
        export_torch(bundle, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
