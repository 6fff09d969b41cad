"""Answers and evaluations that the lake names no more: whoever wants them again asks the bundle, which stays."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

from gbif_platform.steps.evaluation_metrics import NAME as EVALUATION
from gbif_platform.steps.model_answers import ASKED
from gbif_platform.steps.trained_model import beside
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.objects import Entry, ObjectStore

ANSWERS, EVALUATIONS = "answers", "evaluations"


def unneeded_answers(lake: Lake, objects: ObjectStore, grace: timedelta) -> list[Entry]:
    """Files under `answers/` and `evaluations/` whose folder no row names, and that are all older than the grace.

    The grace covers runs that are writing now, and rows of old lake versions. Of a folder of answers the file that
    says that it is whole comes first, so that a kill between leaves nothing that looks whole.
    """
    named = set(lake.frame("SELECT DISTINCT answers FROM predictions WHERE answers IS NOT NULL")["answers"])
    judged = lake.frame(
        "SELECT models.bundle, stages.version FROM models JOIN stages USING (dataset, snapshot) "
        "WHERE stage = model || '/' || ?",
        [EVALUATION],
    )
    named |= {f"{beside(bundle, EVALUATIONS)}/{version}" for bundle, version in judged.rows()}
    folders: dict[str, list[Entry]] = defaultdict(list)
    for kind in (ANSWERS, EVALUATIONS):
        for entry in objects.entries(kind):
            folders[entry.key.rpartition("/")[0]].append(entry)
    since = datetime.now(UTC) - grace
    return [
        entry
        for folder, entries in sorted(folders.items())
        if folder not in named and max(entry.modified for entry in entries) < since
        for entry in sorted(entries, key=lambda entry: (not entry.key.endswith(f"/{ASKED}"), entry.key))
    ]
