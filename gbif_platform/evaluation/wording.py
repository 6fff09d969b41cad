"""What metrics are called, what they mean and how their numbers are written: in the report, the card and the plots."""

import math
from dataclasses import dataclass

from gbif_platform.plots.figure import SPACE

NOTHING, MINUS = "–", "−"
COVERAGE = "coverage_at_"
SUMMED = "The probability of a taxon is the sum over its labels."


@dataclass(frozen=True)
class Wording:
    """A metric in words.

    Attributes:
        title: what a table calls it.
        meaning: one sentence; empty where the name says it all.
        share: a number from 0 to 1, written in percent.
        higher_is_better: which way is up.
    """

    title: str
    meaning: str = ""
    share: bool = True
    higher_is_better: bool = True


METRICS = {
    "top1": Wording("Top-1 accuracy", "Pictures whose best answer is right."),
    "top5": Wording("Top-5 accuracy", "Pictures whose true label is among the five best answers."),
    "macro_accuracy": Wording("Macro accuracy", "Mean recall over the labels with test pictures; each counts once."),
    "macro_top5": Wording("Macro top-5", "Mean over the labels of the share with the true label among the five best."),
    "f1_macro": Wording("Macro F1", "Mean F1 over the labels with test pictures."),
    "log_loss": Wording("Log loss", "Mean −ln of the true label's probability, in nats.", False, False),
    "brier": Wording("Brier score", "Squared error of the probabilities, summed over labels; 0 to 2.", False, False),
    "ece": Wording("Calibration error (ECE)", "Mean gap between confidence and accuracy, 15 bins.", True, False),
    "mce": Wording("Largest calibration error", "The largest such gap of a bin.", True, False),
    "aurc": Wording("AURC", "Mean error over all coverages, the surest pictures first.", False, False),
    "lca_severity": Wording("Severity of mistakes", "Mean height of the lowest common taxon of answer and truth, over "
                            "the mistakes.", False, False),
    "lca_distance": Wording("Mean distance in the taxonomy", "The same over all pictures; 0 = right.", False, False),
    "auroc": Wording("AUROC", "Chance that a picture of a known label is answered with more confidence than one of a "
                     "label that the model never saw.", False),
    "fpr95": Wording("FPR at 95 %", "Pictures of unseen labels taken for known where 95 % of the known ones are.",
                     True, False),
    "auroc_margin": Wording("AUROC by the margin", "The same by the lead over the second answer.", False),
    "fpr95_margin": Wording("FPR at 95 % by the margin", "The same by the lead over the second answer.", True, False),
    "macro_average_precision": Wording("Macro average precision", "Area under precision and recall, mean over labels; "
                                       "a picture may have several."),
    "binary_log_loss": Wording("Binary log loss", "Mean over pictures and labels (Hakuna Ma-data's score); a picture "
                               "may have several.", False, False),
}  # fmt: skip
"""Each metric of the evaluation that is not named after a rank or a bucket."""
BUCKETS = {
    "many": "more than 100 training pictures",
    "medium": "20 to 100 training pictures",
    "few": "fewer than 20 training pictures",
}


def wording(name: str) -> Wording:
    """The words for a metric; of a name that is not known, the name itself."""
    if name in METRICS:
        return METRICS[name]
    for bucket, meaning in BUCKETS.items():
        if bucket in name.split("_"):
            return Wording(f"Macro accuracy, {bucket}", f"Labels with {meaning}.")
    if name.startswith(COVERAGE):
        wish = f"{name.removeprefix(COVERAGE)}{SPACE}%"
        return Wording(
            f"Coverage at {wish}", f"Pictures answered if the least sure are left out until {wish} are right."
        )
    if name.endswith("_top1"):
        return Wording(f"Top-1 at the rank {name.removesuffix('_top1')}", SUMMED)
    if name.endswith("_log_loss"):
        return Wording(f"Log loss at the rank {name.removesuffix('_log_loss')}", SUMMED, False, False)
    return Wording(name.replace("_", " "), share=False)


def written(value: float | None, *, share: bool = True) -> str:
    """'87.5 %' of a share, '1.234' of another number, '–' of none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if share:
        return f"{percent(value)}{SPACE}%"
    return (f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}").replace("-", MINUS)


def percent(value: float | None) -> str:
    """'87.5' of a share, '–' of none; nothing that is below 1 is called 100."""
    if value is None or not math.isfinite(value):
        return NOTHING
    digits = f"{100 * value:.1f}".replace("-", MINUS)
    return "99.9" if digits == "100.0" and value < 1 else digits


def interval(low: float | None, high: float | None, *, share: bool = True) -> str:
    """'84.1 – 90.2 %', '–' where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    first = percent(low) if share else written(low, share=False)
    return f"{first}{SPACE}–{SPACE}{written(high, share=share)}"
