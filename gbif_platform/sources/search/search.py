"""A search of GBIF as a source: planned, enumerated whole, and kept as an archive like that of a download.

    metadata = search_archive(source, Path("frogs.zip"), Path("pages"), endpoint=GBIF, user_agent="my-study (+me@…)")

Calls follow one another, as GBIF asks for; what it has answered stays on disk.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from gbif_platform.dataset import GbifSearch, Selection
from gbif_platform.gbif.blocking import run_blocking
from gbif_platform.gbif.client import SEARCH_LIMIT, GbifClient, Json
from gbif_platform.gbif.errors import BadRequest, NotFound
from gbif_platform.gbif.retry import Progress, telling
from gbif_platform.gbif.search_fields import as_query
from gbif_platform.settings import fingerprint
from gbif_platform.sources.names import chosen_checklist, read_names, resolved_query
from gbif_platform.sources.search.archive import write_archive
from gbif_platform.sources.search.pages import PageCache, Survey, read_json, write_json
from gbif_platform.sources.search.parts import Part
from gbif_platform.sources.search.plan import Plan, plan

MOST_CITED = 100
"""Datasets whose citation is asked for, the largest first; the rest is cited by its address."""


def search_version(source: Selection) -> str:
    """16 hex digits of what is searched: query, names and checklist, in whatever order and spelling.

    Raises:
        UnknownField, WrongChecklist, BadChecklist: the file of names cannot be read.
    """
    names = sorted({(name.text, name.taxon_key, name.checklist_key) for name in read_names(source)}, key=repr)
    query = {name: value if isinstance(value, list) else [value] for name, value in as_query(source.query).items()}
    query.pop("checklistKey", None)
    return fingerprint("gbif_search", sorted(query.items()), names, chosen_checklist(source))


def search_archive(
    source: GbifSearch,
    target: Path,
    cache: Path,
    *,
    endpoint: str,
    user_agent: str,
    progress: Progress | None = None,
    limit: int = SEARCH_LIMIT,
) -> Json:
    """Search GBIF and write what it finds as a Darwin Core Archive; also from a notebook.

    Args:
        target: the zip; its folder exists. It appears when it is whole.
        cache: folder for names, plan and pages: an interrupted search goes on from there, a finished one asks nothing.
            Another folder asks GBIF anew.
        progress: called with how many so far, how many in all, and "names" or "records".
        limit: records that GBIF gives of one query.

    Returns:
        What is known of the search: query, checklistKey, names, totalRecords, numberDatasets, calls (made this time),
        plannedCalls, searched (ISO time of the plan), warnings, and matches (rows of `name_matches`).

    Raises:
        SearchTooLarge, SearchNotDivisible: a download is advised.
        NoNameAccepted, BadChecklist: of the names.
        GbifError: GBIF cannot be reached, or refuses.
    """
    return run_blocking(
        searched(source, target, cache, endpoint=endpoint, user_agent=user_agent, progress=progress, limit=limit)
    )


async def searched(
    source: GbifSearch,
    target: Path,
    cache: Path,
    *,
    endpoint: str,
    user_agent: str,
    progress: Progress | None = None,
    limit: int = SEARCH_LIMIT,
) -> Json:
    """As `search_archive`, for a notebook that awaits."""
    folder = cache / search_version(source)
    checklist = chosen_checklist(source)
    async with GbifClient(endpoint, user_agent=user_agent, patience=telling(progress)) as gbif:
        query, matches = await resolved_query(gbif, source, folder, progress)
        whole = Part({name: value for name, value in query.items() if name != "checklistKey"}, 0, checklist)
        planned, moment = await _planned(gbif, whole, folder / f"plan-{limit}.json.gz", source.max_calls, limit)
        pages = PageCache(folder / f"pages-{limit}", limit)
        found, warnings = await enumerate_parts(gbif, planned, pages, progress)
        cited = await _cited(gbif, found, folder / "citations.json.gz")
        calls = gbif.calls
    datasets = write_archive(
        target,
        chain.from_iterable(map(pages.records, planned.parts)),
        checklist_key=checklist,
        announced=planned.total,
        citations=lambda counts: _citations(counts, cited, moment),
        title=f"GBIF occurrence search of {moment[:10]}",
    )
    return {
        "query": query,
        "checklistKey": checklist,
        "names": sorted({name.text for name in read_names(source)}),
        "totalRecords": datasets.total(),
        "numberDatasets": len(datasets),
        "calls": calls,
        "plannedCalls": planned.calls,
        "searched": moment,
        "warnings": warnings + _difference(planned, datasets.total()),
        "matches": matches.to_dicts(),
    }


async def enumerate_parts(
    gbif: GbifClient, planned: Plan, pages: PageCache, progress: Progress | None = None
) -> tuple[Counter[str], list[str]]:
    """Fetch the missing pages of every part, one after the other, as GBIF asks for.

    Returns:
        Records by datasetKey, and a line for each part that is not as GBIF announced it, even when asked once more:
        the index changes while it is read.
    """
    done, datasets, warnings = 0, Counter[str](), []
    for part in planned.parts:
        survey = await _fetched(gbif, part, planned, pages, done, progress)
        if not survey.whole:
            pages.forget(part)
            survey = await _fetched(gbif, part, planned, pages, done, progress)
        if not survey.whole:
            announced = " or ".join(f"{count:,}" for count in sorted(survey.announced))
            warnings.append(f"{part.query}: GBIF announced {announced} occurrences and gave {survey.found:,}")
        done += survey.found
        datasets += survey.datasets
    return datasets, warnings


async def _fetched(
    gbif: GbifClient, part: Part, planned: Plan, pages: PageCache, done: int, progress: Progress | None
) -> Survey:
    async for records in pages.fetch(gbif, part):
        done += records
        if progress:
            progress(min(done, planned.total), planned.total, "records")
    return pages.survey(part)


def _difference(planned: Plan, found: int) -> list[str]:
    if found == planned.total:
        return []
    return [f"the plan counted {planned.total:,} occurrences, {found:,} came: GBIF's index changed meanwhile"]


async def _planned(gbif: GbifClient, whole: Part, file: Path, max_calls: int, limit: int) -> tuple[Plan, str]:
    """The plan, made once, and when."""
    kept = read_json(file)
    if kept is None or Part.from_json(kept["whole"]) != whole:
        made = await plan(gbif, whole, max_calls=max_calls, limit=limit)
        kept = {"whole": asdict(whole), "searched": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(made)}
        write_json(file, kept)
    parts = tuple(Part.from_json(part) for part in kept["parts"])
    return Plan(parts, kept["total"], kept["limit"], kept["planning_calls"]), kept["searched"]


async def _cited(gbif: GbifClient, datasets: Counter[str], file: Path) -> dict[str, str]:
    """Citations of the largest datasets, by datasetKey; GBIF is asked once for each."""
    kept: dict[str, str] = read_json(file) or {}
    for key, _ in datasets.most_common(MOST_CITED):
        if key and key not in kept:
            try:
                citation = (await gbif.dataset(key)).get("citation") or {}
            except (NotFound, BadRequest):
                citation = {}
            kept[key] = str(citation.get("text") or "")
            write_json(file, kept)
    return kept


def _citations(counts: Counter[str], cited: dict[str, str], moment: str) -> Iterable[str]:
    accessed = f"accessed via GBIF.org on {moment[:10]}."
    for key, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if key:
            text = cited.get(key) or f"Occurrence dataset https://www.gbif.org/dataset/{key}"
            yield text if "accessed via GBIF.org" in text else f"{text} {accessed}"
