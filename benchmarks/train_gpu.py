"""Does the loader keep an accelerator busy? Training steps fed by the platform, by timm's data path, and by nothing.

resnet50 and vit_small_patch16_224 at 224 px, bf16, channels last, AdamW; pictures of 341 x 256 px, random crop, mirror
and colours (0.2) on both sides. "Synthetic" is the same step on one uint8 batch that lies on the device. timm's path is
that of its train script: ImageDataset over an ImageFolder, create_loader with prefetcher, as many workers as we have
threads. Needs torch, torchvision, timm, numpy and pyarrow alone; without CUDA it runs on the CPU (use --quick). The
last line is a JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

PARTS = Path(__file__).resolve().parent / "parts"
sys.path[:0] = [str(PARTS), str(PARTS.parents[1])]

import gbif_platform.training  # noqa: E402, F401, I001  # before torch: it tells OpenMP how to wait

import timm  # noqa: E402
import torch  # noqa: E402
from loader_run import MEAN, STD, Folder, index_table  # noqa: E402

from gbif_platform.training.data import Batch, BatchLoader, Samples  # noqa: E402
from gbif_platform.training.preprocess import COLOUR, CROP_SCALE, Preprocess  # noqa: E402

MODELS, QUICK_MODELS = ("resnet50", "vit_small_patch16_224"), ("test_resnet", "test_vit")
SIZE, QUICK_SIZE = 224, 160
CLASSES = 1000
INTERPOLATION = "bilinear"

Feed = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""Normalised float (N, 3, size, size) and int64 (N,), both on the device."""


@dataclass(frozen=True)
class Setup:
    """What all measurements share."""

    device: torch.device
    folder: Path
    size: int
    batch: int
    threads: int
    warm_steps: int
    seconds: float

    @property
    def preprocess(self) -> Preprocess:
        """The same for both."""
        return Preprocess(self.size, MEAN, STD, INTERPOLATION)

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def pictures(folder: Path, distinct: int, copies: int) -> Path:
    """JPEGs as an ImageFolder and as shards."""
    made = folder / f"loader-256-{distinct}-{copies}"
    if not made.exists():
        command: list[str | Path] = [sys.executable, PARTS / "loader_data.py", "256", str(distinct), str(copies), made]
        subprocess.run(command, check=True)
    return made


def batches(setup: Setup, decode_device: torch.device | None = None) -> Iterator[Batch]:
    """Of the platform's loader, without end, on the host."""
    table = index_table(setup.folder)
    samples = Samples.from_table(table, sorted(set(table["label"].to_pylist())))
    loader = BatchLoader(
        samples,
        Folder(setup.folder),
        setup.preprocess,
        setup.batch,
        seed=1,
        augment=True,
        threads=setup.threads,
        decode_device=decode_device,
    )
    while True:
        loader.set_epoch(loader.epoch + 1)
        yield from loader


def platform(setup: Setup, decode_device: torch.device | None = None) -> Feed:
    """The platform's data path."""
    preprocess = setup.preprocess
    for batch in batches(setup, decode_device):
        moved = batch.to(setup.device)
        yield preprocess.normalise(moved.image), moved.label


def synthetic(setup: Setup) -> Feed:
    """One batch, as if it had been decoded and copied already."""
    image = torch.randint(0, 256, (setup.batch, 3, setup.size, setup.size), dtype=torch.uint8, device=setup.device)
    label = torch.randint(0, CLASSES, (setup.batch,), device=setup.device)
    for _ in repeat(None):
        yield setup.preprocess.normalise(image), label


def timm_path(setup: Setup) -> Feed:
    """timm's data path."""
    from timm.data import ImageDataset, create_loader

    cuda = setup.device.type == "cuda"
    loader: Iterable[Any] = create_loader(
        ImageDataset(str(setup.folder / "folder")),
        input_size=(3, setup.size, setup.size),
        batch_size=setup.batch,
        is_training=True,
        scale=CROP_SCALE,
        color_jitter=COLOUR,
        interpolation=INTERPOLATION,
        mean=MEAN,
        std=STD,
        num_workers=setup.threads,
        pin_memory=cuda,
        use_prefetcher=cuda,
        device=setup.device,
    )
    while True:
        for image, label in loader:
            yield (
                image.to(setup.device, non_blocking=True).contiguous(memory_format=torch.channels_last),
                label.to(setup.device, non_blocking=True),
            )


def make_step(setup: Setup, model: str) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """One step of training."""
    network = timm.create_model(model, num_classes=CLASSES).to(setup.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=setup.device.type == "cuda")
    loss = torch.nn.CrossEntropyLoss()

    def step(image: torch.Tensor, label: torch.Tensor) -> None:
        with torch.autocast(setup.device.type, torch.bfloat16):
            value = loss(network(image), label)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def measure(setup: Setup, feed: Feed, step: Callable[[torch.Tensor, torch.Tensor], None]) -> dict[str, float]:
    """Pictures a second, the share of the time that was spent waiting for batches, and CPU seconds for 1000 pictures.

    CPU seconds are of this process alone: those of timm's workers are not in them.
    """
    for _ in range(setup.warm_steps):
        step(*next(feed))
    setup.wait()
    pictures, waited = 0, 0.0
    start, cpu = time.monotonic(), cpu_seconds()
    while time.monotonic() - start < setup.seconds:
        before = time.monotonic()
        image, label = next(feed)
        waited += time.monotonic() - before
        step(image, label)
        pictures += len(label)
        if pictures // setup.batch % 8 == 0:
            setup.wait()  # so that the clock cannot run ahead of the device by more
    setup.wait()
    seconds = time.monotonic() - start
    return {
        "per_second": pictures / seconds,
        "waiting_share": waited / seconds,
        "cpu_s_per_1000": 1000 * (cpu_seconds() - cpu) / pictures,
    }


def cpu_seconds() -> float:
    """User and system seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def parts_of(setup: Setup) -> dict[str, float]:
    """What the loader does alone, and a copy to the device alone."""
    found = measure(setup, ((batch.image, batch.label) for batch in batches(setup)), lambda image, label: None)
    batch = next(batches(setup))
    setup.wait()
    start = time.monotonic()
    for _ in range(10):
        setup.preprocess.normalise(batch.to(setup.device).image)
    setup.wait()
    return {
        "loader_alone_per_second": found["per_second"],
        "loader_cpu_s_per_1000": found["cpu_s_per_1000"],
        "copy_and_normalise_ms": 100 * (time.monotonic() - start),
    }


def compare(setup: Setup, model: str, rounds: int, feeds: dict[str, Callable[[], Feed]]) -> dict[str, Any]:
    """The feeds in turn with the same network: medians of the rounds."""
    step = make_step(setup, model)
    if setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in feeds}
    for _ in range(rounds):
        for name, feed in feeds.items():
            running = feed()
            runs[name].append(measure(setup, running, step))
            del running
            print(f"{model}  {name}: {runs[name][-1]['per_second']:.1f} pictures/s", flush=True)
    found: dict[str, Any] = {name: median(of) for name, of in runs.items()}
    synthetic_speed = found["synthetic"]["per_second"]
    found["step_ms"] = 1000 * setup.batch / synthetic_speed
    found |= {f"share_{name}": found[name]["per_second"] / synthetic_speed for name in feeds if name != "synthetic"}
    if setup.device.type == "cuda":
        found["peak_device_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {key: sorted(run[key] for run in runs)[len(runs) // 2] for key in runs[0]}


def rounded(value: Any) -> Any:
    """For people."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny networks, few pictures: does it run?")
    parser.add_argument("--batch", type=int, help="pictures a step; by default 256, or 8 with --quick")
    parser.add_argument("--seconds", type=float, help="of each measurement; by default 15, or 1 with --quick")
    parser.add_argument("--rounds", type=int, default=1, help="how often each side runs")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 16), help="threads, or timm's workers")
    parser.add_argument("--data", type=Path, help="where to keep the pictures; by default a temporary folder")
    return parser.parse_args()


def main() -> None:
    given = options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pictures(given.data or Path(scratch), *((6, 8) if given.quick else (64, 64)))
        setup = Setup(
            device=device,
            folder=folder,
            size=QUICK_SIZE if given.quick else SIZE,
            batch=given.batch or (8 if given.quick else 256),
            threads=given.threads,
            warm_steps=1 if given.quick else 10,
            seconds=given.seconds or (1 if given.quick else 15),
        )
        feeds: dict[str, Callable[[], Feed]] = {
            "synthetic": lambda: synthetic(setup),
            "platform": lambda: platform(setup),
            "timm": lambda: timm_path(setup),
        }
        if device.type == "cuda":
            feeds["platform_nvjpeg"] = lambda: platform(setup, device)
        models = QUICK_MODELS if given.quick else MODELS
        found = {model: compare(setup, model, given.rounds, feeds) for model in models}
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        shared = {"device": name, "torch": torch.__version__, "batch": setup.batch, "threads": setup.threads}
        figures = {"benchmark": "train_gpu", "quick": given.quick, **shared, **parts_of(setup), **found}
    print(json.dumps(rounded(figures)), flush=True)


if __name__ == "__main__":
    main()
