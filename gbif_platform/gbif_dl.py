"""The arguments of gbif-dl's `api.generate_urls`, as they stand, in a dataset file (gbif-dl 0.1.1)."""

from collections.abc import Mapping
from typing import Any

from gbif_platform.curation.spec import Split

ARGUMENTS = (
    "queries",
    "split_streams_by",
    "subset_streams",
    "nb_samples_per_stream",
    "nb_samples",
    "weighted_streams",
    "one_media_per_occurrence",
    "mediatype",
    "license_info",
    "cache_requests",
    "verbose",
)
"""All but `label`, which is the same word here."""

SHARES = Split().shares
"""How the media are divided that are in no held-out subset; the share of one that is held out goes to train."""


def translated(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a dataset file with gbif-dl's arguments replaced by ours.

    Nothing changes where none is there. Where one is, gbif-dl's defaults hold for the others too. Unknown names stay.

    Raises:
        ValueError: an argument that cannot be followed, or something said both ways; the message names the keys.
    """
    given = {name: attributes[name] for name in ARGUMENTS if attributes.get(name) is not None}
    result = {key: value for key, value in attributes.items() if key not in ARGUMENTS}
    if not any(name in attributes for name in ARGUMENTS):
        return result
    if "label" in result and result["label"] is None:
        raise ValueError("label: without one gbif-dl yields whole records; here name the term that is learnt")
    _check(given)
    if "queries" in given:
        result["source"] = _source(_mapping("source", result.get("source")), given)
    sampling = _mapping("sampling", result.get("sampling"))
    if sampling.get("media_per_occurrence") is None:
        given.setdefault("one_media_per_occurrence", True)
    result["sampling"] = _joined("sampling", sampling, _sampling(given))
    if "subset_streams" in given:
        result["split"] = _split(_mapping("split", result.get("split")), given)
    return result


def _check(given: Mapping[str, Any]) -> None:
    """Types, and values that are not followed."""
    for name in ("weighted_streams", "one_media_per_occurrence"):
        if not isinstance(given.get(name, False), bool):
            raise ValueError(f"{name}: true or false is expected, not {given[name]!r}")
    for name, lowest in (("nb_samples", -1), ("nb_samples_per_stream", 1)):
        number = given.get(name, 1)
        if type(number) is not int or number < lowest or number == 0:
            raise ValueError(f"{name}: a number above 0 is expected{', or -1' * (lowest < 0)}, not {number!r}")
    if given.get("nb_samples") == -1:
        for name in ("nb_samples_per_stream", "weighted_streams"):
            if given.get(name):
                raise ValueError(f"nb_samples: -1 and {name} contradict each other; keep one")
    if given.get("mediatype") not in (None, "StillImage", ["StillImage"]):
        raise ValueError(f"mediatype: only StillImage can be taken, not {given['mediatype']!r}")
    if "queries" in given and not isinstance(given["queries"], Mapping):
        raise ValueError("queries: search fields with their values are expected, e.g. {speciesKey: [5352251, 3190653]}")
    for field in _streams(given):
        if _plain(field) == "taxonkey":
            raise ValueError(
                f"split_streams_by: {field} is each record's own taxon, whatever rank it has; "
                "name a rank: speciesKey, genusKey, familyKey, …"
            )


def _streams(given: Mapping[str, Any]) -> list[str]:
    fields = given.get("split_streams_by", [])
    fields = [fields] if isinstance(fields, str) else fields
    if not isinstance(fields, list | tuple) or not all(isinstance(field, str) for field in fields):
        raise ValueError(f"split_streams_by: a field or a list of fields is expected, not {fields!r}")
    return list(fields)


def _plain(field: str) -> str:
    return field.replace("_", "").lower()


def _source(source: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The queries as the query of the source, GBIF's search where none is named."""
    query = {
        str(field): list(value) if isinstance(value, tuple) else value for field, value in given["queries"].items()
    }
    if not any(_plain(field) == "mediatype" for field in query):
        query["mediaType"] = "StillImage"
    source = source or {"gbif_search": {}}
    kinds = [kind for kind in ("gbif_search", "gbif_download") if kind in source]
    if len(kinds) != 1:
        raise ValueError(f"queries are a question to GBIF; source: {', '.join(source)} is not asked")
    kind = kinds[0]
    selection = _mapping(f"source.{kind}", source[kind])
    return {**source, kind: _joined(f"source.{kind}", selection, {"query": ("queries", query)})}


def _sampling(given: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Our keys with the argument that each comes from and its value."""
    result: dict[str, tuple[str, Any]] = {}
    streams, total, each = _streams(given), given.get("nb_samples"), given.get("nb_samples_per_stream")
    if "one_media_per_occurrence" in given:
        one = given["one_media_per_occurrence"]
        result["media_per_occurrence"] = ("one_media_per_occurrence", 1 if one else None)
    if streams:
        result["split_streams_by"] = ("split_streams_by", streams)
    if total == -1:
        return result | {"policy": ("nb_samples", "balanced")}
    if not streams and each is not None:  # all is one stream then
        total, each = min(each, total or each), None
    name = "nb_samples" if given.get("nb_samples") is not None else "nb_samples_per_stream"
    if total is not None:
        equal = streams and not given.get("weighted_streams")
        result |= {"policy": (name, "balanced" if equal else "natural"), "total": (name, total)}
    if each is not None:
        result.setdefault("policy", ("nb_samples_per_stream", "balanced"))
        result["per_stratum"] = ("nb_samples_per_stream", each)
    return result


def _split(split: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Subsets by the values of a stream's field: held out, all but `train`."""
    named = {
        str(subset): _field_and_values(f"subset_streams.{subset}", fields, given)
        for subset, fields in _mapping("subset_streams", given["subset_streams"]).items()
    }
    held_out = {}
    for subset, (field, values) in named.items():
        rest = _rest(field, named, given)
        if subset != "train":
            held_out[subset] = {field: rest if values == ["*"] else values}
        elif rest and ["*"] not in [others for of, others in named.values() if of == field]:
            raise ValueError(
                f"subset_streams.train: {field} {', '.join(map(str, rest))} would be in no subset; "
                "train is all that no other subset names: say '*'"
            )
    held_share = sum(SHARES[name] for name in held_out if name in SHARES)
    subsets = {name: share for name, share in SHARES.items() if name not in held_out}
    subsets["train"] = round(subsets["train"] + held_share, 2)
    ours = {"holdout": ("subset_streams", held_out)} if held_out else {}
    return {"subsets": subsets, **_joined("split", split, ours)}


def _field_and_values(where: str, fields: Any, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
    if len(fields := _mapping(where, fields)) != 1:
        raise ValueError(f"{where}: one field is expected, e.g. {{speciesKey: [5352251]}}, not {list(fields)}")
    field, values = next(iter(fields.items()))
    if field not in _streams(given):
        raise ValueError(f"{where}: {field} is none of split_streams_by; gbif-dl reads {{subset: {{field: values}}}}")
    return field, _listed(values)


def _rest(field: str, named: Mapping[str, tuple[str, list[Any]]], given: Mapping[str, Any]) -> list[Any]:
    """The values that the query asks for and no subset names: what `*` stands for."""
    listed = [values for of, values in named.values() if of == field]
    asked = _listed(given.get("queries", {}).get(field, []))
    rest = [value for value in asked if not any(value in values for values in listed)]
    if (stars := listed.count(["*"])) > 1 or (stars and not rest):
        raise ValueError(
            f"subset_streams: '*' stands {stars} times for the {len(rest)} values of queries.{field} that no subset "
            "names; one subset and one value at least are expected"
        )
    return rest


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]


def _mapping(name: str, part: Any) -> dict[str, Any]:
    if part is not None and not isinstance(part, Mapping):
        raise ValueError(f"{name}: keys and values are expected, not {part!r}")
    return dict(part or {})


def _joined(name: str, part: dict[str, Any], ours: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """A part of the dataset file with the keys that come from arguments; none may be there already."""
    for key, (argument, _) in ours.items():
        if part.get(key) is not None:
            raise ValueError(f"{argument} and {name}.{key} say the same thing twice; keep one")
    return part | {key: value for key, (_, value) in ours.items()}
