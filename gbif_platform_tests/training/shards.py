"""Shards of small generated pictures for the training tests."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from gbif_platform.storage.objects import ObjectStore

PATTERNS = ["horizontal", "vertical", "checked"]


def picture(pattern: str, random: np.random.Generator, size: int = 40) -> bytes:
    """A JPEG of noisy stripes or squares; colour and phase vary, so only the pattern tells the label."""
    phase = random.integers(0, 8)
    rows, columns = np.indices((size, size)) + phase
    bright = {
        "horizontal": rows // 4 % 2,
        "vertical": columns // 4 % 2,
        "checked": (rows // 4 + columns // 4) % 2,
    }[pattern]
    pixels = bright[..., None] * random.uniform(60, 140, 3) + random.uniform(20, 100, 3)
    pixels = np.clip(pixels + random.normal(0, 15, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shard(store: ObjectStore, key: str, members: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    """A tar under `key`; returns each member's (offset, size)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    store.put(key, buffer.getvalue())
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar.getmembers()}


def toy_table(
    folder: Path, count: int, *, seed: int = 1, patterns: list[str] = PATTERNS
) -> tuple[ObjectStore, pa.Table]:
    """`count` pictures in two shards under `folder`, labels in turn."""
    random = np.random.default_rng(seed)
    store = ObjectStore(folder.as_uri())
    rows = []
    for part in range(2):
        key = f"shards/{seed}-{part}.tar"
        labels = {f"m{seed}-{i:05d}": patterns[i // 2 % len(patterns)] for i in range(part, count, 2)}
        index = write_shard(store, key, {f"{name}.jpg": picture(label, random) for name, label in labels.items()})
        for name, label in labels.items():
            offset, size = index[f"{name}.jpg"]
            rows.append({"media_id": name, "label": label, "shard": key, "offset": offset, "size": size})
    return store, pa.Table.from_pylist(rows)
