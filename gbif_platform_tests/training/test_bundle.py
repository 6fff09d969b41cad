import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from gbif_platform.storage.objects import ObjectStore
from gbif_platform.training.bundle import (
    Bundle,
    BundleError,
    fetch_bundle,
    load_bundle,
    with_calibration,
)
from gbif_platform.training.priors import answer_adjustment, learnt_log_prior
from gbif_platform_tests.training.bundles import PROVENANCE, random_bundle, rewritten
from gbif_platform_tests.training.shards import PATTERNS


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    taxonomy = {"vertical": {"family": "Stripes"}}
    return random_bundle(tmp_path / "bundle", taxonomy=taxonomy)


def test_a_bundle_holds_what_serving_needs(bundle: Bundle) -> None:
    assert {path.name for path in bundle.folder.iterdir()} == {"model.safetensors", "bundle.json"}
    assert load_bundle(bundle.folder) == bundle
    assert bundle.labels == PATTERNS
    assert bundle.class_counts == [100, 50, 33]
    assert bundle.provenance == PROVENANCE
    assert bundle.preprocess.size == 32
    assert bundle.taxonomy["vertical"]["family"] == "Stripes"
    assert (bundle.output, bundle.temperature, bundle.tau) == ("softmax", 1.0, 0.0)


def test_saving_again_replaces_the_bundle(bundle: Bundle) -> None:
    (bundle.folder / "stray").touch()
    random_bundle(bundle.folder)
    assert {path.name for path in bundle.folder.iterdir()} == {"model.safetensors", "bundle.json"}
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["bundle"]


def test_a_head_of_its_own_and_sigmoid_travel_with_the_bundle(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "bundle", pooling="max", hidden=7, dropout=0.5, output="sigmoid")
    assert bundle.head == {"pooling": "max", "hidden": 7, "dropout": 0.5}
    assert bundle.output == "sigmoid"
    network = bundle.network()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        embedding = network.embed(images)
        assert torch.equal(network(images), network.head(embedding)), "and dropout does nothing outside training"


def test_a_bundle_of_before_heads_still_loads(tmp_path: Path) -> None:
    """Version 0.1.0 wrote timm's own state dict, and neither head nor output nor pictures."""
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    bundle = rewritten(
        random_bundle(tmp_path / "bundle"), tmp_path / "old",
        weights=tmp_path / "timm.safetensors", head=None, output=None, pictures=None,
    )  # fmt: skip
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(bundle.network()(images), network(images), atol=1e-5)
    assert bundle.output == "softmax"


@pytest.mark.parametrize(
    "damage", ["no folder", "not json", "format", "labels", "preprocess", "output", "weights", "cut weights"]
)
def test_a_damaged_bundle_is_refused_in_words(bundle: Bundle, damage: str) -> None:
    path, weights = bundle.folder / "bundle.json", bundle.folder / "model.safetensors"
    description = json.loads(path.read_text())
    match damage:
        case "no folder":
            bundle.folder.rename(bundle.folder.with_name("elsewhere"))
        case "not json":
            path.write_text("{")
        case "format":
            path.write_text(json.dumps({**description, "format": "other/2"}))
        case "labels":
            path.write_text(json.dumps({**description, "labels": ["a"]}))
        case "preprocess":
            path.write_text(json.dumps({**description, "preprocess": {"size": 32}}))
        case "output":
            path.write_text(json.dumps({**description, "output": "tanh"}))
        case "weights":
            weights.unlink()
        case "cut weights":
            weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BundleError) as error:
        load_bundle(bundle.folder)
    assert str(bundle.folder) in error.value.cause
    assert error.value.next_step


def test_calibration_lies_beside_the_bundle_which_never_changes(bundle: Bundle) -> None:
    before = (bundle.folder / "bundle.json").read_bytes()
    calibrated = with_calibration(bundle.folder, 1.7, 0.5)
    assert (calibrated.temperature, calibrated.tau) == (1.7, 0.5)
    assert with_calibration(bundle.folder, 0.9, 0.0).temperature == load_bundle(bundle.folder).temperature == 0.9
    assert (bundle.folder / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("values", [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, 3.0), (float("inf"), 0.0)])
def test_calibration_out_of_its_range_is_refused(bundle: Bundle, values: tuple[float, float]) -> None:
    with pytest.raises(BundleError):
        with_calibration(bundle.folder, *values)
    assert load_bundle(bundle.folder) == bundle


@pytest.mark.parametrize("text", ["{", "[]", '{"temperature": 1}', '{"temperature": "x", "tau": 0}'])
def test_damaged_calibration_is_refused_in_words(bundle: Bundle, text: str) -> None:
    (bundle.folder / "calibration.json").write_text(text)
    with pytest.raises(BundleError, match=r"calibration\.json"):
        load_bundle(bundle.folder)


def test_calibration_of_other_weights_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = random_bundle(tmp_path / "other", labels=["a", "b"])
    with_calibration(other.folder, 2.0, 0.0)
    (other.folder / "calibration.json").rename(bundle.folder / "calibration.json")
    with pytest.raises(BundleError, match="other weights"):
        load_bundle(bundle.folder)


class RemoteStore(ObjectStore):
    """A folder that hides its paths, as S3 does, and counts what is copied out of it."""

    copied = 0

    def path_of(self, key: str) -> None:
        return None

    def copy_to(self, key: str, path: Path) -> None:
        self.copied += 1
        super().copy_to(key, path)


def test_a_bundle_in_an_object_store_is_copied_once_and_its_calibration_each_time(
    bundle: Bundle, tmp_path: Path
) -> None:
    store, copy = RemoteStore(tmp_path.as_uri()), tmp_path / "copy"
    fetched = fetch_bundle(store, "bundle", copy)
    assert fetched.labels == bundle.labels
    assert fetched.folder == copy
    with_calibration(bundle.folder, 1.5, 0.0)
    assert fetch_bundle(store, "bundle", copy).temperature == 1.5
    (bundle.folder / "calibration.json").unlink()
    assert fetch_bundle(store, "bundle", copy).temperature == 1.0
    assert store.copied == 1
    (copy / "model.safetensors").write_bytes(b"torn")
    assert fetch_bundle(store, "bundle", copy).labels == bundle.labels
    assert store.copied == 2
    assert fetch_bundle(ObjectStore(tmp_path.as_uri()), "bundle", copy).folder == bundle.folder


def test_a_bundle_that_is_not_in_the_store_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        fetch_bundle(RemoteStore(tmp_path.as_uri()), "nowhere", tmp_path / "copy")


def test_the_digest_of_the_weights_is_that_of_the_file(bundle: Bundle) -> None:
    assert bundle.weights_digest() == hashlib.sha256((bundle.folder / "model.safetensors").read_bytes()).hexdigest()


COUNTS = [900, 90, 9, 0]


def centred(values: np.ndarray) -> np.ndarray:
    return values - values.max()


@pytest.mark.parametrize(
    "spec",
    [
        {"loss": "cross_entropy"},
        {"loss": "balanced_softmax"},
        {"loss": "logit_adjusted", "tau": 0.3},
        {"loss": "cross_entropy", "sampler": "balanced"},
        {"loss": "focal", "sampler": "sqrt"},
        {"loss": "class_balanced", "beta": 0.99},
    ],
)
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_whatever_a_model_learnt_its_answers_get_the_prior_asked_for(spec: dict[str, object], tau: float) -> None:
    wanted = (1 - tau) * np.log([900, 90, 9, 1])
    assert np.allclose(centred(learnt_log_prior(COUNTS, spec) + answer_adjustment(COUNTS, spec, tau)), centred(wanted))


def test_a_plain_models_answers_are_left_alone_at_tau_zero() -> None:
    assert np.allclose(answer_adjustment(COUNTS, {"loss": "cross_entropy"}, 0.0), 0)


def test_weights_by_effective_number_are_undone() -> None:
    """Cui et al. 2019: weight (1 - beta) / (1 - beta^n); what is shown n times at that weight counts n times it."""
    counts = np.array([1000, 10])
    shown = np.log(counts * (1 - 0.999) / (1 - 0.999**counts))
    assert np.allclose(centred(learnt_log_prior([1000, 10], {"loss": "class_balanced", "beta": 0.999})), centred(shown))
