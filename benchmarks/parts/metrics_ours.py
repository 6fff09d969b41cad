"""The platform's evaluation: metrics_ours.py core|whole DATA. Last line: its figures.

core: what the peers compute too. whole: all that a model's report says, with intervals, ranks, slices and baselines.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from gbif_platform.evaluation.answers import Answers
from gbif_platform.evaluation.calibration import calibration_errors, reliability
from gbif_platform.evaluation.evaluate import evaluate
from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.metrics import confusion_counts, f1_macro, log_loss, macro_accuracy, top_k_accuracy
from gbif_platform.evaluation.scores import score

RANKS = ("genus", "family", "order")


def core(data: Path) -> dict[str, float]:
    label = np.load(data / "rows.npz")["label"]
    scores = score(Answers.open(data / "logits.npy"), label)
    return {
        "top1": top_k_accuracy(scores, 1),
        "top5": top_k_accuracy(scores, 5),
        "macro_accuracy": macro_accuracy(scores),
        "f1_macro": f1_macro(scores),
        "log_loss": log_loss(scores),
        "ece": calibration_errors(reliability(scores.top_probability[:, 0], scores.right))[0],
        "mistakes": len(confusion_counts(scores)),
    }


def whole(data: Path) -> dict[str, float]:
    rows = np.load(data / "rows.npz")
    answers = Answers.open(data / "logits.npy")
    lineage = {rank: [f"{rank} {number}" for number in rows[rank]] for rank in RANKS}
    read = time.monotonic()
    scores = score(answers, rows["label"], hierarchy=Hierarchy.from_names(lineage, answers.classes))
    scored = time.monotonic()
    found = evaluate(
        scores,
        [f"species {place}" for place in range(answers.classes)],
        rows["counts"],
        group=rows["group"],
        slices={"country_code": rows["country"]},
    )
    names = ("top1", "top5", "macro_accuracy", "f1_macro", "log_loss", "ece", "top1_low", "top1_high")
    numbers = {name: found.numbers[name] for name in names}
    return numbers | {"score_s": scored - read, "evaluate_s": time.monotonic() - scored}


def main() -> None:
    way, data = sys.argv[1], Path(sys.argv[2])
    start = time.monotonic()
    found = (core if way == "core" else whole)(data)
    print(json.dumps({**found, "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
