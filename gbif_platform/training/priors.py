"""How frequent a model takes its labels to be, and what makes its answers those of another frequency. numpy alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SAMPLED = {"natural": 1.0, "sqrt": 0.5, "balanced": 0.0}
"""Power of the training counts in how often a sampler shows a label."""


def learnt_log_prior(class_counts: Sequence[int], spec: Mapping[str, Any]) -> np.ndarray:
    """The log prior within the logits of a model trained by `spec`: float64 (C,), up to a constant.

    Cross-entropy learns the prior of what it is shown (sampler) and how it is weighted (class_balanced, Cui et al.
    2019); balanced softmax (Ren et al. 2020) and logit adjustment (Menon et al. 2021) keep tau times it out.
    """
    counts = np.maximum(np.asarray(class_counts, np.float64), 1)
    prior = SAMPLED[spec.get("sampler", "natural")] * np.log(counts)
    match spec.get("loss", "cross_entropy"):
        case "balanced_softmax":
            prior -= np.log(counts)
        case "logit_adjusted":
            prior -= spec.get("tau", 1.0) * np.log(counts)
        case "class_balanced":
            prior -= np.log1p(-(spec.get("beta", 0.999) ** counts))
    return prior


def answer_adjustment(class_counts: Sequence[int], spec: Mapping[str, Any], tau: float) -> np.ndarray:
    """What is added to the logits so that labels are as frequent as in training (tau 0), equally (1), or between.

    Returns:
        float64 (C,): the log prior n^(1 - tau) less the one that the model learnt, its largest value 0. A sigmoid
        model, which has no prior over its labels, takes that of tau 0: it undoes what its loss added.
    """
    counts = np.maximum(np.asarray(class_counts, np.float64), 1)
    adjustment = (1 - tau) * np.log(counts) - learnt_log_prior(class_counts, spec)
    return adjustment - adjustment.max(initial=-np.inf) if len(counts) else adjustment
