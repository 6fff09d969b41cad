"""An evaluation of any number of labels, made up: what `ReportData` takes, as the evaluation gives it."""

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from gbif_platform.evaluation.report import Mistake, ReportData

GENERA = [
    "Acanthis",
    "Bombus",
    "Carduelis",
    "Dactylorhiza",
    "Emberiza",
    "Falco",
    "Gentiana",
    "Hirundo",
    "Iris",
    "Juncus",
]
EPITHETS = ["alba", "borealis", "campestris", "dubia", "elegans", "fulva", "grandis", "hirta", "italica", "laevis",
            "montana", "nana", "officinalis"]  # fmt: skip


@dataclass(frozen=True)
class Number:
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    centroid: float | None = None


@dataclass(frozen=True)
class Compared:
    promote: bool
    reason: str
    table: pa.Table


def names(classes: int) -> list[str]:
    found = []
    for number in range(classes):
        genus, epithet = GENERA[number % len(GENERA)], EPITHETS[number // len(GENERA) % len(EPITHETS)]
        form = number // (len(GENERA) * len(EPITHETS))
        found.append(f"{genus} {epithet}" + (f" subsp. {EPITHETS[form % 13]}{form}" if form else ""))
    return found


def picture(seed: int = 0, width: int = 320, height: int = 240) -> bytes:
    random = np.random.default_rng(seed)
    small = random.integers(40, 220, (6, 8, 3), dtype=np.uint8)
    noise = random.integers(-25, 25, (height, width, 3))
    large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)) + noise
    buffer = io.BytesIO()
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def mistakes(labels: list[str], number: int) -> list[Mistake]:
    licences = ["CC-BY-NC-4.0", "CC-BY-4.0", "CC0-1.0", "unknown"]
    return [
        Mistake(
            media_id=f"{seed:016x}",
            jpeg=picture(seed, *((320, 240) if seed % 3 else (200, 320))),
            label=labels[seed % len(labels)],
            predicted=labels[(seed * 7 + 1) % len(labels)],
            score=0.99 - seed / 100,
            credit=f"Ann Onym the {seed + 1}th",
            licence=licences[seed % 4],
            url=f"https://www.gbif.org/occurrence/{seed}",
        )
        for seed in range(number)
    ]


def report_data(classes: int = 10, *, pictures: int = 24, seed: int = 3) -> ReportData:
    random = np.random.default_rng(seed)
    labels = names(classes)
    train = np.sort((random.pareto(0.9, classes) * 12 + 3).astype(np.int64))[::-1].clip(max=5000)
    support = random.poisson(np.minimum(train / 8, 60))
    quality = np.clip(0.35 + 0.17 * np.log10(train + 1) + random.normal(0, 0.1, classes), 0.02, 0.99)
    true = np.repeat(np.arange(classes), support)
    predicted = np.where(
        random.random(len(true)) < quality[true], true, (true + random.integers(1, 4, len(true))) % classes
    )
    pairs, rows = np.unique(np.column_stack([true, predicted]), axis=0, return_counts=True)
    confusion = np.column_stack([pairs, rows]).astype(np.int64)
    right = np.bincount(true[true == predicted], minlength=classes)
    answered = np.bincount(predicted, minlength=classes)
    wrong = confusion[confusion[:, 0] != confusion[:, 1]]
    other: dict[int, tuple[str, int]] = {}
    for t, p, n in wrong:
        if n > other.get(int(t), ("", 0))[1]:
            other[int(t)] = (labels[p], int(n))

    def ratio(top: np.ndarray, bottom: np.ndarray) -> pa.Array:
        return pa.array(top / np.maximum(bottom, 1), mask=bottom == 0)

    top1 = float(right.sum() / len(true))
    return ReportData(
        title="baseline 2026-01",
        dataset="frogs_of_denmark",
        snapshot="10.15468/dl.sand01",
        doi="10.15468/dl.sand01",
        summary=[
            Number("top1", top1, top1 - 0.03, top1 + 0.03, 0.12, 0.41),
            Number("top5", top1 + 0.15, top1 + 0.13, top1 + 0.17, 0.34, 0.7),
            Number("macro_accuracy", top1 - 0.1, top1 - 0.14, top1 - 0.06, 1 / classes, 0.35),
            Number("log_loss", 1.234, 1.15, 1.31, 3.4, None),
            Number("brier", 0.42, 0.39, 0.45, 0.93),
            Number("ece", 0.034, 0.021, 0.05),
            Number("f1_macro", top1 - 0.12),
            Number("many_macro", 0.82, 0.8, 0.85),
            Number("few_macro", 0.31, 0.2, 0.4),
            Number("coverage_at_95", 0.38),
            Number("aurc", 0.121),
            Number("lca_severity", 2.1),
            Number("genus_top1", min(top1 + 0.1, 1), top1 + 0.08, min(top1 + 0.12, 1)),
        ],
        classes=pa.table(
            {
                "label": labels,
                "train_pictures": train,
                "bucket": ["many" if n > 100 else "medium" if n >= 20 else "few" for n in train],
                "support": support.astype(np.int64),
                "precision": ratio(right, answered),
                "recall": ratio(right, support),
                "f1": ratio(2 * right, answered + support),
                "most_confused_with": pa.array([other.get(c, (None, 0))[0] for c in range(classes)], pa.string()),
                "confused_rows": [other.get(c, (None, 0))[1] for c in range(classes)],
            }
        ),
        confusion=confusion,
        reliability=reliability(),
        coverage=coverage(),
        ranks=pa.table(
            {
                "rank": ["species", "genus", "family", "order"],
                "taxa": [classes, max(classes // 3, 1), max(classes // 9, 1), 2],
                "top1": [top1, top1 + 0.08, top1 + 0.11, top1 + 0.14],
                "low": [top1 - 0.03, top1 + 0.05, top1 + 0.08, top1 + 0.11],
                "high": [top1 + 0.03, top1 + 0.11, top1 + 0.14, top1 + 0.17],
                "log_loss": [1.234, 0.9, 0.7, 0.41],
                "severity": [0.5, 0.3, 0.15, 0.05],
            }
        ),
        rollup=pa.table(
            {"rank": ["species", "genus", "family", "none"], "rows": [600, 200, 120, 80], "right": [570, 180, 100, 0]}
        ),
        slices=slices(random),
        unevaluated=[label for label, rows in zip(labels, support, strict=True) if not rows],
        open_set={"auroc": 0.871, "fpr95": 0.44, "rows": 1200},
        temperature=1.31,
        history=[
            {
                "epoch": epoch,
                "train_loss": 2.4 * 0.88**epoch + 0.2,
                "val_loss": 2.3 * 0.9**epoch + 0.45,
                "val_top1": top1 * (1 - 0.8 ** (epoch + 1)),
                "val_macro": (top1 - 0.1) * (1 - 0.82 ** (epoch + 1)),
                "learning_rate": 1e-3 * np.cos(epoch / 40 * np.pi) ** 2,
                "seconds": 31.5,
            }
            for epoch in range(20)
        ],
        mistakes=mistakes(labels, pictures),
        comparison=Compared(
            True,
            "Macro accuracy changed by +2.1 % (+0.4 – +3.9 %): not worse than the champion, overall and by country.",
            pa.table(
                {
                    "slice": ["all", "all", "all", "country_code=DK", "country_code=SE"],
                    "metric": ["top1", "macro_accuracy", "log_loss", "macro_accuracy", "macro_accuracy"],
                    "candidate": [0.71, 0.61, 1.234, 0.62, 0.55],
                    "champion": [0.70, 0.589, 1.31, 0.60, 0.58],
                    "difference": [0.01, 0.021, -0.076, 0.02, -0.03],
                    "low": [-0.005, 0.004, -0.12, -0.01, -0.055],
                    "high": [0.025, 0.039, -0.03, 0.05, -0.005],
                    "rows": [5000, 5000, 5000, 1200, 800],
                }
            ),
        ),
        card={
            "backbone": "resnet18",
            "epochs": 20,
            "loss": "logit_adjusted",
            "image_size": 224,
            "parameters": "11.2 M",
        },
        citations=[
            "GBIF.org (15 January 2026) GBIF Occurrence Download https://doi.org/10.15468/dl.sand01",
            *(f"Museum {n}. Collection {n}. Occurrence dataset https://doi.org/10.15468/{n}" for n in range(30)),
        ],
        licences={"CC-BY-NC-4.0": 41_000, "CC-BY-4.0": 12_345, "CC0-1.0": 800, "unknown": 12},
        groups=4321,
    )


def reliability() -> pa.Table:
    low = np.arange(15) / 15
    confidence = low + 1 / 30
    return pa.table(
        {
            "low": low,
            "high": low + 1 / 15,
            "rows": [0, 3, 20, 55, 80, 90, 110, 120, 140, 170, 220, 300, 420, 800, 2400],
            "confidence": confidence,
            "accuracy": pa.array(np.clip(confidence - 0.06 * np.sin(3 * confidence), 0, 1), mask=low == 0),
        }
    )


def coverage(points: int = 1000) -> pa.Table:
    share = np.arange(1, points + 1) / points
    return pa.table({"coverage": share, "accuracy": 1 - 0.28 * share**1.7, "threshold": 1 - 0.9 * share})


def slices(random: np.random.Generator) -> pa.Table:
    values = {
        "country_code": ["DK", "SE", "NO", "DE", "FI", "PL", "NL", "GB", "FR", "ES", "IT", "EE", "LV", "LT", "IS"],
        "season": ["spring", "summer", "autumn", "winter"],
        "observer": ["seen", "unseen"],
    }
    rows = []
    for name, names in values.items():
        scores = random.uniform(0.5, 0.85, len(names))
        for value, score in zip(names, scores, strict=True):
            rows.append(
                {
                    "slice": name, "value": value, "rows": int(random.integers(20, 900)), "groups": 18, "top1": score,
                    "top1_low": score - 0.05, "top1_high": score + 0.05, "macro_accuracy": score - 0.1,
                    "log_loss": 2 - score, "worst": bool(score == scores.min()),
                }
            )  # fmt: skip
    return pa.Table.from_pylist(rows)
