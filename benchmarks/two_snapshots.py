"""A dataset that grows: monkeys10, 981 photographs of 10 labels, as a folder; first 60 % of them, then all.

A small network learns from random weights on the first snapshot, and on the second both anew and from the first's
champion. Each is judged on the test pictures of its snapshot; whether it becomes champion is decided on those that
the champion has not seen. Duplicates are kept on one side of the split. No peer: the question is about the data.
"""

import argparse
import shutil
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness import report

from gbif_platform.dataset import Dataset
from gbif_platform.orchestration.assets import shells
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.run import Run

MONKEYS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos" / "dev" / "monkeys10"
FIRST_SHARE = 0.6
SHOWN = ("top1", "macro_accuracy", "macro_top5", "log_loss", "ece")


def dataset(folder: Path, epochs: int, warm: bool) -> Dataset:
    """The dataset file's content."""
    learns = {"backbone": "test_resnet", "image_size": 96, "epochs": epochs, "learning_rate": 0.004}
    return Dataset.model_validate(
        {
            "name": "monkeys",
            "source": {"image_folder": {"path": str(folder), "table": str(MONKEYS / "labels.csv")}},
            "label": "scientificName",
            "filters": {"licences": "any"},
            "sampling": {"policy": "all"},
            "images": {"size": 128},
            "split": {
                "subsets": {"train": 0.6, "validation": 0.1, "test": 0.3},
                "group_by": ["duplicate", "near_duplicate"],
            },
            "models": {"cold": learns, "warm": learns | {"warm_start": warm}},
        }
    )


def picture_files() -> list[Path]:
    """The photographs, in an order of chance that is always the same."""
    return sorted(MONKEYS.glob("*/*.jpg"), key=lambda path: sha256(path.name.encode()).digest())


def main() -> None:
    """Run both snapshots and print what came of them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--quick", action="store_true", help="3 epochs")
    chosen = options.parse_args()
    epochs = 3 if chosen.quick else chosen.epochs
    files = picture_files()
    found = []
    with tempfile.TemporaryDirectory() as work:
        folder, platform = Path(work) / "monkeys", Platform(Settings(home=Path(work) / "home"))
        for number, share in enumerate((FIRST_SHARE, 1.0)):
            for file in files[: round(share * len(files))]:
                target = folder / file.relative_to(MONKEYS)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            described = dataset(folder, epochs, warm=bool(number))
            start = time.monotonic()
            run = Run(platform, described, add_snapshot(platform, described)[0])
            for shell in shells(described):
                shell.step(run)
            print(f"snapshot {number + 1}: {time.monotonic() - start:.0f} s", flush=True)
            found += figures(run, number + 1)
    columns = [
        "snapshot",
        "model",
        "test pictures",
        "top-1",
        "95 %",
        "macro",
        "nearest centroid",
        "commonest",
        "champion",
    ]
    report(
        "monkeys10 in two snapshots",
        columns,
        [
            (
                row["snapshot"], row["model"], row["pictures"], row["top1"][0], "{1} – {2}".format(*row["top1"]),
                row["macro_accuracy"][0], row["centroid_top1"], row["baseline_top1"], row["reason"],
            )
            for row in found
        ],
        [f"{epochs} epochs of test_resnet at 96 px; `warm` starts from the first snapshot's champion"],
        {"benchmark": "two_snapshots", "epochs": epochs, "models": found},
    )  # fmt: skip


def figures(run: Run, number: int) -> list[dict[str, Any]]:
    """What the lake says of each model of a snapshot."""
    rows = []
    for model in run.dataset.models:
        metrics = run.platform.lake.frame(
            "SELECT metric, value, low, high FROM evaluation_metrics WHERE snapshot = ? AND model = ? "
            "AND subset = 'test' AND slice = 'all'",
            [run.snapshot, model],
        )
        values = {name: (value, low, high) for name, value, low, high in metrics.rows()}
        row: dict[str, Any] = {"snapshot": number, "model": model, "pictures": values["pictures"][0]}
        row |= {name: [one and round(one, 3) for one in values[name]] for name in SHOWN}
        row |= {f"{base}_top1": round(values[f"{base}_top1"][0], 3) for base in ("baseline", "centroid")}
        decided = run.platform.lake.frame(
            "SELECT promoted, reason, test_pictures FROM promotions WHERE snapshot = ? AND model = ?",
            [run.snapshot, model],
        )
        rows.append(row | decided.row(0, named=True))
    return rows


if __name__ == "__main__":
    main()
