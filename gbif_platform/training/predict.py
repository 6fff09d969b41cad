"""Predictions as data: one row a medium, from which every metric is computed afterwards."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch

from gbif_platform.training.bundle import Bundle
from gbif_platform.training.data import BatchLoader, Objects, Samples


def predict(
    bundle: Bundle,
    samples: Samples,
    objects: Objects,
    *,
    k: int = 5,
    batch_size: int = 64,
    threads: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """What the model says about each sample.

    Args:
        bundle: the model.
        samples: labelled with the bundle's labels.
        objects: where the shards are.
        k: labels kept a row; fewer where the model has fewer.
        batch_size: pictures at a time.
        threads: that read and decode; None = one per core.
        device: None = the first GPU, else the CPU.
        progress: called with (rows done, rows).

    Returns:
        media_id (string), label (int32), top_labels (list of int32, best first, ties by lower index),
        top_probabilities (list of float32), label_log_probability (float32, natural log).

    Raises:
        BundleError, SampleError.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = bundle.network(device)
    k = min(k, len(bundle.labels))
    top, probability, own = [], [], []
    loader = BatchLoader(samples, objects, bundle.preprocess, batch_size, threads=threads)
    try:
        with torch.inference_mode():
            for done, batch in enumerate(loader, 1):
                images = bundle.preprocess.normalise(batch.image.to(device))
                scores = network(images).float().log_softmax(1).cpu()
                ordered, labels = scores.sort(dim=1, descending=True, stable=True)
                top.append(labels[:, :k].numpy().astype(np.int32))
                probability.append(ordered[:, :k].exp().numpy())
                own.append(scores.gather(1, batch.label[:, None])[:, 0].numpy())
                if progress is not None:
                    progress(min(done * batch_size, len(samples)), len(samples))
    finally:
        loader.close()
    return pa.table(
        {
            "media_id": samples.media_id,
            "label": pa.array(samples.label, pa.int32()),
            "top_labels": _lists(top, k, pa.int32()),
            "top_probabilities": _lists(probability, k, pa.float32()),
            "label_log_probability": pa.array(np.concatenate([*own, np.zeros(0, np.float32)]), pa.float32()),
        }
    )


def _lists(parts: list[np.ndarray], k: int, kind: pa.DataType) -> pa.ListArray:
    values = np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)
    offsets = np.arange(0, len(values) + 1, k, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values, kind))
