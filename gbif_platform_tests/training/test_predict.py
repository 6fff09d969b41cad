import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gbif_platform.training import predict as module
from gbif_platform.training.bundle import Bundle, load_bundle, save_bundle
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import BatchLoader
from gbif_platform.training.predict import Inference, PredictionError, inference_dtype, predict
from gbif_platform.training.run import TrainResult
from gbif_platform_tests.training.bundles import PROVENANCE, random_bundle, rewritten
from gbif_platform_tests.training.conftest import TINY, Toy
from gbif_platform_tests.training.shards import PATTERNS


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return random_bundle(tmp_path / "bundle")


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "logits.npy"), np.load(folder / "embeddings.npy")


def test_answers_are_the_networks_own_in_the_order_of_the_samples(bundle: Bundle, toy: Toy, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    answers = predict(bundle, toy.validation, toy.store, tmp_path, batch_size=7, progress=lambda *now: told.append(now))
    logits, embeddings = np.load(answers.logits), np.load(answers.embeddings)
    assert logits.shape == (24, 3)
    assert logits.dtype == embeddings.dtype == np.float16
    assert len(embeddings) == 24
    assert (logits.max(axis=1) == 0).all(), "softmax models: each row less its maximum"
    assert told[-1] == (24, 24)
    assert answers.rows == 24
    assert answers.rate > 0
    inference = Inference(bundle)
    loader = BatchLoader(toy.validation, toy.store, bundle.preprocess, 24)
    direct = torch.cat([inference(batch.image)[0] for batch in loader]).numpy()
    loader.close()
    assert np.allclose(logits, direct - direct.max(axis=1, keepdims=True), atol=0.02)


def test_answers_agree_with_the_validation_of_the_best_epoch(toy: Toy, trained: TrainResult, tmp_path: Path) -> None:
    bundle = save_bundle(tmp_path / "trained", trained, ModelSpec(**TINY, epochs=3), PATTERNS, PROVENANCE)
    predict(bundle, toy.validation, toy.store, tmp_path)
    top1 = float((arrays(tmp_path)[0].argmax(axis=1) == toy.validation.label).mean())
    # Another batch size, so other sums: one picture may fall on the other side.
    assert top1 == pytest.approx(trained.history[trained.best_epoch]["val_top1"], abs=1.01 / 24)


def test_a_killed_prediction_goes_on_and_gives_the_same_bits(
    bundle: Bundle, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAFE_SECONDS", 0.0)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    predict(bundle, toy.validation, toy.store, whole, batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        predict(bundle, toy.validation, toy.store, cut, batch_size=5, progress=stop_at(10))
    assert not (cut / "logits.npy").exists(), "a half array never has the name of a whole one"
    with (cut / ".logits.npy.part").open("ab") as file:
        file.write(b"torn")  # of a batch that the state does not count
    seen: list[int] = []
    predict(bundle, toy.validation, toy.store, cut, batch_size=5, progress=lambda done, _: seen.append(done))
    assert seen[0] > 10, "what was done is not done again"
    for one, other in zip(arrays(whole), arrays(cut), strict=True):
        assert np.array_equal(one, other)


def test_a_kill_between_the_two_renames_costs_nothing(
    bundle: Bundle, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, target: Path) -> Path:
        if target.name == "embeddings.npy":
            raise KeyboardInterrupt
        return rename(path, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "replace", lambda path, target: killed(path, Path(target)))
    with pytest.raises(KeyboardInterrupt):
        predict(bundle, toy.validation, toy.store, tmp_path)
    monkeypatch.undo()
    seen: list[int] = []
    predict(bundle, toy.validation, toy.store, tmp_path, progress=lambda done, _: seen.append(done))
    assert not seen, "every row was there"
    assert [len(array) for array in arrays(tmp_path)] == [24, 24]


def test_a_finished_prediction_is_not_made_again_and_another_models_is(
    bundle: Bundle, toy: Toy, tmp_path: Path
) -> None:
    folder = tmp_path / "answers"
    predict(bundle, toy.validation, toy.store, folder)
    before = arrays(folder)[0]
    predict(bundle, toy.validation, toy.store, folder, progress=stop_at(0))
    weights = load_file(bundle.folder / "model.safetensors")
    last = max(name for name in weights if weights[name].shape[:1] == (3,))
    save_file({**weights, last: weights[last] + torch.randn(weights[last].shape)}, tmp_path / "other.safetensors")
    other = rewritten(bundle, tmp_path / "other", weights=tmp_path / "other.safetensors")
    predict(other, toy.validation, toy.store, folder)
    assert not np.array_equal(arrays(folder)[0], before)
    assert len(arrays(folder)[0]) == 24


@pytest.mark.parametrize("damage", ["cut", "gone", "shape"])
def test_parts_that_were_damaged_are_made_anew(bundle: Bundle, toy: Toy, tmp_path: Path, damage: str) -> None:
    predict(bundle, toy.validation, toy.store, tmp_path)
    whole = arrays(tmp_path)
    state = json.loads((tmp_path / "answers.json").read_text())
    (tmp_path / "answers.json").write_text(json.dumps({**state, "finished": False}))
    part = tmp_path / ".logits.npy.part"
    (tmp_path / "logits.npy").replace(part)
    match damage:
        case "cut":
            part.write_bytes(part.read_bytes()[:-1])
        case "gone":
            part.unlink()
        case "shape":
            part.write_bytes(part.read_bytes().replace(b"(24, 3)", b"(24, 4)"))
    predict(bundle, toy.validation, toy.store, tmp_path)
    for one, other in zip(whole, arrays(tmp_path), strict=True):
        assert np.array_equal(one, other)


def test_a_sigmoid_models_logits_stay_as_they_are(bundle: Bundle, toy: Toy, tmp_path: Path) -> None:
    sigmoid = rewritten(bundle, tmp_path / "sigmoid", output="sigmoid")
    predict(bundle, toy.validation, toy.store, tmp_path / "softmax answers")
    predict(sigmoid, toy.validation, toy.store, tmp_path / "sigmoid answers")
    shifted, plain = arrays(tmp_path / "softmax answers")[0], arrays(tmp_path / "sigmoid answers")[0]
    assert (plain.max(axis=1) != 0).any()
    assert np.allclose(plain - plain.max(axis=1, keepdims=True), shifted, atol=0.02)


def test_answers_that_are_no_numbers_are_an_error(bundle: Bundle, toy: Toy, tmp_path: Path) -> None:
    weights = load_file(bundle.folder / "model.safetensors")
    save_file({name: value * float("nan") if value.is_floating_point() else value for name, value in weights.items()},
              tmp_path / "nan.safetensors")  # fmt: skip
    broken = rewritten(bundle, tmp_path / "broken", weights=tmp_path / "nan.safetensors")
    with pytest.raises(PredictionError, match="no number"):
        predict(broken, toy.validation, toy.store, tmp_path / "answers")
    assert not (tmp_path / "answers" / "logits.npy").exists()


def test_no_samples_give_empty_arrays_of_the_same_width(bundle: Bundle, toy: Toy, tmp_path: Path) -> None:
    predict(bundle, toy.nothing, toy.store, tmp_path)
    logits, embeddings = arrays(tmp_path)
    assert logits.shape == (0, 3)
    assert embeddings.shape == (0, Inference(bundle).width)


def test_the_precision_is_the_trainings_where_the_device_has_it() -> None:
    cpu = torch.device("cpu")
    assert inference_dtype("32-true", cpu) is None
    assert inference_dtype("auto", cpu) == inference_dtype("bf16-mixed", cpu)


def test_the_head_answers_in_full_precision(bundle: Bundle, tmp_path: Path) -> None:
    low = load_bundle(rewritten(bundle, tmp_path / "low", spec={**bundle.spec, "precision": "bf16-mixed"}).folder)
    full = load_bundle(rewritten(bundle, tmp_path / "full", spec={**bundle.spec, "precision": "32-true"}).folder)
    size = bundle.preprocess.size
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (8, 3, size, size), dtype=np.uint8))
    logits, embedding = Inference(full)(images)
    assert logits.dtype == embedding.dtype == torch.float32
    near, _ = Inference(low)(images)
    assert near.dtype == torch.float32
    assert torch.allclose(near, logits, atol=0.1)


def stop_at(rows: int) -> Callable[..., Any]:
    def stop(done: int, total: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return stop
