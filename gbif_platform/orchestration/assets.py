"""The assets of a dataset: each runs one step and reports; nothing is computed here."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import dagster as dg

from gbif_platform.dataset import Dataset
from gbif_platform.errors import PlatformError, explained
from gbif_platform.orchestration.keys import DATASET_TAG, asset_key, partitions
from gbif_platform.orchestration.metadata import check_result, metadata
from gbif_platform.orchestration.observations import Observations
from gbif_platform.platform import Platform
from gbif_platform.steps import (
    balanced_samples,
    catalogue,
    downloaded_images,
    duplicate_images,
    evaluation_metrics,
    media_urls,
    model_report,
    occurrences,
    predicted_catalogue,
    promotion,
    snapshot_changes,
    splits,
    taxa,
    trained_model,
)
from gbif_platform.steps.run import Report, Run

CODE_VERSION = "1"
TAXON_CHECKS = ("ranks_present", "one_lineage_per_name", "names_tidy", "no_synonyms_left", "one_rank")
NEXT_STEP = "next step"

REACTS = (
    dg.AutomationCondition.any_deps_updated().since(
        dg.AutomationCondition.newly_requested()
        | dg.AutomationCondition.newly_updated()
        | dg.AutomationCondition.execution_failed().newly_true()
    )
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("upstream has new rows")
"""When a stage follows by itself. Refused data are never recorded, so that nothing reacts to them; what has failed is
not tried again before something upstream changes."""


@dataclass(frozen=True)
class Shell:
    """How Dagster sees a step: nothing goes past one of its `checks` that fails; `warnings` stop nothing."""

    stage: str
    step: Callable[..., Report]
    description: str
    kinds: set[str]
    checks: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    pool: str | None = None


SHELLS = (
    Shell(
        "occurrences",
        occurrences.occurrences,
        "Every occurrence of the snapshot, all terms that hold anything, numbers as numbers; refused rows are in "
        "`quarantine` with their reason.",
        {"duckdb", "parquet"},
        ("rows_reconcile",),
        (),
    ),
    Shell(
        "media_urls",
        media_urls.media_urls,
        "One row for each picture of each occurrence: stable media id and url id, the medium's own licence as SPDX id, "
        "creator and rights holder.",
        {"duckdb", "parquet"},
        ("rows_reconcile", "media_ids_unique"),
        ("licences_known",),
        ("occurrences",),
    ),
    Shell(
        "snapshot_changes",
        snapshot_changes.snapshot_changes,
        "What became of each medium since the snapshot before: added, removed, relabelled, licence changed. Removed "
        "media stay listed here, and keep their pixels until compaction.",
        {"duckdb", "parquet"},
        ("rows_reconcile",),
        (),
        ("media_urls", "occurrences"),
    ),
    Shell(
        "taxa",
        taxa.taxa,
        "Every taxon that occurrences with pictures are identified as: its accepted name, its lineage, and the label "
        "that it gives, or why none.",
        {"duckdb", "parquet"},
        ("rows_reconcile", "media_reconcile"),
        ("labels_present",),
        ("occurrences", "media_urls"),
    ),
    Shell(
        "balanced_samples",
        balanced_samples.balanced_samples,
        "The media that the dataset takes: filters, then an exact, seeded quota for each stratum. `sample_report` says "
        "what was available, wanted and taken, `sample_funnel` what each filter lost.",
        {"duckdb", "parquet"},
        ("rows_reconcile", "quotas_exact"),
        ("words_known",),
        ("media_urls", "occurrences", "taxa"),
    ),
    Shell(
        "predicted_catalogue",
        predicted_catalogue.predicted_catalogue,
        "What the dataset would be if every picture arrived: source, taxonomy, licence, captions and the subset to "
        "expect, with the taxon checks before anything is fetched.",
        {"duckdb", "parquet"},
        ("rows_reconcile",),
        TAXON_CHECKS,
        ("balanced_samples", "taxa", "media_urls", "occurrences"),
    ),
    Shell(
        "downloaded_images",
        downloaded_images.downloaded_images,
        "The sampled pictures, fetched once for all datasets, decoded, resized and kept in shards; failures keep their "
        "reason and a retry date.",
        {"python", "webdataset"},
        ("rows_reconcile", "shards_sound"),
        ("most_arrived",),
        ("balanced_samples", "predicted_catalogue"),
        "fetch",
    ),
    Shell(
        "duplicate_images",
        duplicate_images.duplicate_images,
        "Pictures that are the same, by their bytes, their pixels, or nearly so by perceptual hash; with the labels "
        "that contradict each other, and the pairs to look at.",
        {"python", "duckdb"},
        ("rows_reconcile",),
        ("labels_agree",),
        ("downloaded_images",),
    ),
    Shell(
        "splits",
        splits.splits,
        "Which subset each picture is in, by a seeded hash of its group: no group is torn apart, no picture changes "
        "sides while data grow.",
        {"duckdb", "parquet"},
        ("rows_reconcile", "no_leakage"),
        ("holdouts_pure", "no_empty_subset", "groups_small"),
        ("downloaded_images", "duplicate_images"),
    ),
    Shell(
        "catalogue",
        catalogue.catalogue,
        "What the dataset is: one row for each picture with source, taxonomy, licence, subset and captions, as table, "
        "Parquet and CSV; and each difference to the predicted catalogue with its reason.",
        {"duckdb", "parquet", "csv"},
        ("rows_reconcile", "differences_explained"),
        TAXON_CHECKS,
        ("predicted_catalogue", "splits"),
    ),
)

MODEL_SHELLS = (
    Shell(
        "trained_model",
        trained_model.trained_model,
        "A Lightning model over a timm backbone, tracked in MLflow; the bundle holds weights, labels, preprocessing "
        "and exactly which rows it saw.",
        {"pytorch", "mlflow"},
        ("rows_reconcile", "bundle_loads"),
        (),
        ("splits",),
        "train",
    ),
    Shell(
        "evaluation_metrics",
        evaluation_metrics.evaluation_metrics,
        "The model's answers as rows, and every metric computed from them: with intervals, calibrated, at every rank, "
        "by slice, beside what label frequencies and nearest centroids would answer.",
        {"duckdb", "mlflow"},
        ("rows_reconcile",),
        ("beats_baseline", "slices_known"),
        ("trained_model", "splits"),
    ),
    Shell(
        "promotion",
        promotion.promotion,
        "Whether the model becomes champion: its paired difference to the champion in force, picture by picture, on "
        "test pictures that neither has seen, overall and on the protected slices.",
        {"duckdb", "mlflow"},
        ("rows_reconcile",),
        ("protected_slices",),
        ("evaluation_metrics",),
    ),
    Shell(
        "model_report",
        model_report.model_report,
        "One self-contained page on the model, with its curves, its mistakes as pictures with credit, and every "
        "metric; and its card.",
        {"html", "mlflow"},
        ("rows_reconcile",),
        (),
        ("evaluation_metrics", "promotion"),
    ),
)


def model_shell(shell: Shell, model: str) -> Shell:
    """The shell of a stage that exists once for each model."""
    models = {one.stage for one in MODEL_SHELLS}
    return replace(
        shell,
        stage=f"{model}/{shell.stage}",
        step=partial(shell.step, model=model),
        upstream=tuple(f"{model}/{name}" if name in models else name for name in shell.upstream),
    )


def shells(dataset: Dataset) -> list[Shell]:
    """All stages of a dataset, upstream first."""
    return [*SHELLS, *(model_shell(shell, model) for model in dataset.models for shell in MODEL_SHELLS)]


def dataset_assets(dataset: Dataset) -> list[dg.AssetsDefinition]:
    """All assets of a dataset."""
    return [build_asset(dataset, shell) for shell in shells(dataset)]


def build_asset(dataset: Dataset, shell: Shell) -> dg.AssetsDefinition:
    """One asset, partitioned by snapshot, in the dataset's group."""
    key = asset_key(dataset.name, shell.stage)
    by_snapshot = partitions(dataset.name)
    with warnings.catch_warnings():  # a check without partitions would give one verdict for all snapshots
        warnings.simplefilter("ignore", dg.PreviewWarning)
        checks = [
            dg.AssetCheckSpec(name, asset=key, partitions_def=by_snapshot, blocking=name in shell.checks)
            for name in (*shell.checks, *shell.warnings)
        ]

    @dg.asset(
        key=key,
        deps=[asset_key(dataset.name, name) for name in shell.upstream],
        partitions_def=by_snapshot,
        group_name=dataset.name,
        description="\n\n".join(filter(None, [shell.description, dataset.description])),
        kinds=shell.kinds,
        owners=dataset.owners or None,
        tags={DATASET_TAG: dataset.name},
        code_version=CODE_VERSION,
        pool=shell.pool,
        automation_condition=REACTS if shell.upstream else None,
        check_specs=checks,
    )
    def asset(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        platform.progress(shell.stage, 0, None, "")
        try:
            observe = Observations(context, key)
            report = shell.step(Run(platform, dataset, context.partition_key, context.run.run_id, observe))
        except Exception as error:
            if known := explained(error):
                raise failure(known) from error
            raise
        rows = int(report.numbers.get("rows", 0))
        platform.progress(shell.stage, rows, rows, "done" if report.written else "up to date")
        failed = [check for check in report.checks if not check.passed and not check.only_warn]
        for check in report.checks:
            yield check_result(check, key)
        if failed:  # automation goes on past a failed check, but not past a failed step
            says = "; ".join(f"{check.name}: {check.description}" for check in failed)
            raise dg.Failure(f"{shell.stage} is not sound: {says}", allow_retries=False)
        yield dg.MaterializeResult(
            asset_key=key, metadata=metadata(report), data_version=dg.DataVersion(report.version)
        )

    return asset


def failure(error: PlatformError) -> dg.Failure:
    """A user's error as Dagster shows it; trying again would not help."""
    return dg.Failure(error.cause, metadata={NEXT_STEP: error.next_step}, allow_retries=False)
