"""Stored answers to be judged: metrics_data.py ROWS CLASSES FOLDER. Block by block, in bounded memory.

logits.npy is float16 (ROWS, CLASSES), each row minus its maximum, as `training.predict` writes it; rows.npz has label,
group (1.7 pictures an occurrence), country, and the labels' training counts, genera, families and orders.
"""

import sys
from pathlib import Path

import numpy as np

BLOCK = 4096
SEED = 17


def main() -> None:
    rows, classes, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True)
    random = np.random.default_rng(SEED)
    counts = np.maximum(2000 / np.arange(1, classes + 1), 3).astype(np.int64)
    label = random.choice(classes, rows, p=counts / counts.sum())
    # Drawn once: random numbers of the whole file would take longer than all that is measured.
    noise = random.normal(0, 1.5, (BLOCK, 2 * classes)).astype(np.float16)
    logits = np.lib.format.open_memmap(folder / "logits.npy", mode="w+", dtype=np.float16, shape=(rows, classes))
    for start in range(0, rows, BLOCK):
        own = label[start : start + BLOCK]
        shift = int(random.integers(classes))
        block = noise[random.permutation(BLOCK)[: len(own)], shift : shift + classes].astype(np.float32)
        block[np.arange(len(own)), own] += random.normal(7, 2, len(own))
        logits[start : start + len(own)] = block - block.max(axis=1, keepdims=True)
        if start // BLOCK % 64 == 0:
            logits.flush()
    logits.flush()
    place = np.arange(classes)
    np.savez(
        folder / "rows.npz",
        label=label,
        group=random.integers(0, int(rows / 1.7), rows),
        country=random.choice(["DK", "SE", "NO", "FI", "DE"], rows, p=[0.5, 0.2, 0.15, 0.1, 0.05]),
        counts=counts,
        genus=place // 3,
        family=place // 20,
        order=place // 150,
    )


if __name__ == "__main__":
    main()
