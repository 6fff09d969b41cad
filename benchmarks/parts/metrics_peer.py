"""What a script would do: metrics_peer.py torchmetrics|sklearn DATA. Last line: its figures, no intervals.

torchmetrics is fed batches, as it is meant to be; scikit-learn takes the whole matrix of probabilities.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

BATCH = 1024


def by_torchmetrics(logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    import torch
    from torchmetrics import MetricCollection
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassCalibrationError,
        MulticlassConfusionMatrix,
        MulticlassF1Score,
    )

    classes = logits.shape[1]
    metrics = MetricCollection(
        {
            "top1": MulticlassAccuracy(classes, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(classes, average="micro", top_k=5, validate_args=False),
            "macro_accuracy": MulticlassAccuracy(classes, average="macro", validate_args=False),
            "f1_macro": MulticlassF1Score(classes, average="macro", validate_args=False),
            "ece": MulticlassCalibrationError(classes, n_bins=15, validate_args=False),
            "confusion": MulticlassConfusionMatrix(classes, validate_args=False),
        }
    )
    loss = 0.0
    with torch.inference_mode():
        for start in range(0, len(label), BATCH):
            scores = torch.from_numpy(logits[start : start + BATCH].astype(np.float32))
            own = torch.from_numpy(label[start : start + BATCH])
            loss += float(torch.nn.functional.cross_entropy(scores, own, reduction="sum"))
            metrics.update(scores.softmax(1), own)
        found = metrics.compute()
    confusion = found.pop("confusion")
    return {name: float(value) for name, value in found.items()} | {
        "log_loss": loss / len(label),
        "mistakes": int((confusion > 0).sum()),
    }


def by_sklearn(logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    from scipy.special import softmax
    from sklearn import metrics

    classes = range(logits.shape[1])
    share = softmax(logits.astype(np.float32), axis=1)
    predicted = share.argmax(axis=1)
    confidence, right = share.max(axis=1), predicted == label
    place = np.minimum((confidence * 15).astype(int), 14)
    gap = np.bincount(place, confidence, 15) - np.bincount(place, right, 15)
    return {
        "top1": metrics.accuracy_score(label, predicted),
        "top5": metrics.top_k_accuracy_score(label, share, k=5, labels=classes),
        "macro_accuracy": metrics.balanced_accuracy_score(label, predicted),
        "f1_macro": metrics.f1_score(label, predicted, average="macro"),
        "log_loss": metrics.log_loss(label, share, labels=classes),
        "ece": float(np.abs(gap).sum() / len(label)),
        "mistakes": int((metrics.confusion_matrix(label, predicted, labels=classes) > 0).sum()),
    }


def main() -> None:
    way, data = sys.argv[1], Path(sys.argv[2])
    start = time.monotonic()
    logits, label = np.load(data / "logits.npy", mmap_mode="r"), np.load(data / "rows.npz")["label"]
    found = (by_torchmetrics if way == "torchmetrics" else by_sklearn)(logits, label)
    print(json.dumps({**found, "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
