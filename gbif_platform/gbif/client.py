"""GBIF's API: search, name matching, downloads and derived datasets, with patience and typed errors.

    async with GbifClient(user_agent="my-study (+me@example.org)") as gbif:
        print(await gbif.count({"taxonKey": 2435099, "country": ["DK", "SE"]}))

Each call is one or a few HTTP requests: https://techdocs.gbif.org/en/openapi/
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, Self
from urllib.parse import quote, urlsplit

import aiohttp

from gbif_platform.gbif.checklists import BACKBONE, check_taxon_keys
from gbif_platform.gbif.credentials import Credentials
from gbif_platform.gbif.errors import BadRequest, GbifError, NotAuthorised, NotFound, TooManyDownloads, Unreachable
from gbif_platform.gbif.retry import TRANSIENT_STATUS, Patience, Transient
from gbif_platform.gbif.search_fields import as_query, parameter, predicate_key
from gbif_platform.gbif.species import Match, read_match_v1, read_match_v2
from gbif_platform.retry_after import retry_after

GBIF = "https://api.gbif.org"
SEARCH_LIMIT = 100_000
"""GBIF refuses offset + limit above this."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PAGE_SIZE = 300
"""Records on one page of the search; GBIF gives no more, whatever is asked."""
_FACET_PAGE = 1000
_LIST_PAGE = 100
LARGEST_ANSWER = 64 * 1024**2
"""Bytes of the largest answer that is read."""
_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=30)
_LONGEST_TEXT = 500

Json = dict[str, Any]


class GbifClient:
    """One session with GBIF; an asynchronous context manager.

    Args:
        endpoint: address of the API.
        user_agent: names the application and a contact, as GBIF asks for.
        credentials: the account; what needs one raises NotAuthorised without.
        patience: how often a call that failed in passing is repeated.

    Every call raises BadRequest, NotAuthorised, NotFound or Unreachable, with GBIF's own text in the message.
    """

    def __init__(
        self,
        endpoint: str = GBIF,
        *,
        user_agent: str,
        credentials: Credentials | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.calls = 0
        self._user_agent = user_agent
        self._credentials = credentials
        self._patience = patience or Patience()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers={"User-Agent": self._user_agent}, timeout=_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    # Occurrence search

    async def search(
        self, query: Mapping[str, Any], *, checklist_key: str | None = None, limit: int = PAGE_SIZE, offset: int = 0
    ) -> Json:
        """One page of occurrences: `count` of all, `results`, `endOfRecords`.

        Args:
            query: values by search field, in any spelling; a list means any of its values, `"a,b"` a range.
            checklist_key: taxonomy of the taxon keys (a UUID); None = GBIF's default, the backbone.

        Raises:
            UnknownField, WrongChecklist: before anything is asked.
        """
        parameters = _search_parameters(query, checklist_key) | {"limit": limit, "offset": offset}
        return _object(await self._get("/v1/occurrence/search", parameters))

    async def search_predicate(self, predicate: Mapping[str, Any], *, limit: int = PAGE_SIZE, offset: int = 0) -> Json:
        """One page of occurrences, as `search`, by a predicate: what is empty, or too long for an address."""
        return await self._by_predicate({"predicate": predicate, "limit": limit, "offset": offset})

    async def count(self, query: Mapping[str, Any], *, checklist_key: str | None = None) -> int:
        """Number of occurrences (not of media)."""
        return int((await self.search(query, checklist_key=checklist_key, limit=0))["count"])

    async def facet(self, query: Mapping[str, Any], field: str, *, checklist_key: str | None = None) -> dict[str, int]:
        """Number of occurrences by each value of a field, most first; those without a value are not among them."""
        parameters = _search_parameters(query, checklist_key) | {"limit": 0, "facet": parameter(field)}

        async def ask(page: Json) -> Json:
            return _object(await self._get("/v1/occurrence/search", parameters | page))

        return await _counts(ask)

    async def facet_predicate(
        self, predicate: Mapping[str, Any], field: str, *, checklist_key: str | None = None
    ) -> dict[str, int]:
        """As `facet`, by a predicate; taxon keys are counted in the given checklist."""
        checklist = {"checklistKey": checklist_key} if checklist_key else {}
        body = {"predicate": predicate, "limit": 0, "facets": [predicate_key(field)], **checklist}
        return await _counts(lambda page: self._by_predicate(body | page))

    async def _by_predicate(self, body: Json) -> Json:
        return _object(await self._ask("POST", "/v1/occurrence/search/predicate", body=body))

    # Names

    async def match(self, name: str, *, version: int = 2, checklist_key: str | None = None, **hints: str) -> Match:
        """How GBIF reads a scientific name.

        Args:
            version: 2, or 1 for the older flat service, which knows the backbone alone.
            checklist_key: taxonomy to match in (a UUID); None = the backbone.
            hints: what disambiguates: kingdom, family, taxonRank …
        """
        if version == 1:
            if checklist_key not in (None, BACKBONE):
                raise GbifError("species/match v1 knows the backbone alone", "use version 2")
            answer = await self._get("/v1/species/match", {"name": name, **hints})
            return read_match_v1(name, _object(answer), BACKBONE)
        checklist = {"checklistKey": checklist_key} if checklist_key else {}
        answer = await self._get("/v2/species/match", {"scientificName": name, **hints, **checklist})
        return read_match_v2(name, _object(answer), checklist_key or BACKBONE)

    # Downloads

    async def request_download(self, body: Mapping[str, Any]) -> str:
        """Ask for a download; returns its key.

        A connection that breaks during this call leaves open whether GBIF has accepted, so that it is not repeated:
        look among `user_downloads` first.

        Raises:
            TooManyDownloads: the user has as many unfinished ones as GBIF allows.
        """
        try:
            key = await self._send("POST", "/v1/occurrence/download/request", body)
        except Unreachable as error:
            if re.search(r"answered 4(20|29)\b", error.cause):
                raise TooManyDownloads(
                    error.cause, "wait until one of your downloads is finished, or cancel one"
                ) from error
            raise
        return str(key).strip()

    async def download(self, key_or_doi: str) -> Json:
        """What GBIF says of a download: key, doi, status, request, size, totalRecords, eraseAfter, …"""
        return _object(await self._get(f"/v1/occurrence/download/{quote(key_or_doi)}"))

    async def cancel_download(self, key: str) -> None:
        """End an unfinished download of one's own."""
        await self._send("DELETE", f"/v1/occurrence/download/request/{quote(key)}")

    async def user_downloads(
        self, user: str, *, since: str | None = None, status: str | None = None, at_most: int | None = None
    ) -> list[Json]:
        """The account's own downloads, newest first.

        Args:
            since: ISO date or time; older ones are left out.
            status: only those in this status (or in any of several, separated by commas).
        """
        wanted = {"from": since, "status": status.split(",") if status else None, "statistics": "false"}
        parameters = {name: value for name, value in wanted.items() if value}
        return await self._listed(f"/v1/occurrence/download/user/{quote(user)}", parameters, at_most, signed=True)

    async def download_datasets(self, key_or_doi: str) -> list[Json]:
        """The datasets that contribute to a download: datasetKey, datasetDOI, datasetCitation, numberRecords."""
        return await self._listed(f"/v1/occurrence/download/{quote(key_or_doi)}/datasets", {}, None)

    async def download_citation(self, key_or_doi: str) -> str:
        """The citation that GBIF words."""
        return str(await self._get(f"/v1/occurrence/download/{quote(key_or_doi)}/citation")).strip()

    # Datasets

    async def dataset(self, key: str) -> Json:
        """Metadata of one published dataset."""
        return _object(await self._get(f"/v1/dataset/{quote(key)}"))

    async def register_derived_dataset(self, body: Mapping[str, Any]) -> Json:
        """Register a derived dataset and get a DOI for it, for ever; `doi` and `citation` are in the answer."""
        return _object(await self._send("POST", "/v1/derivedDataset", body))

    async def derived_dataset(self, doi: str) -> Json:
        """A registered derived dataset."""
        return _object(await self._get(f"/v1/derivedDataset/{quote(doi)}"))

    # HTTP

    async def _listed(self, path: str, parameters: Json, at_most: int | None, *, signed: bool = False) -> list[Json]:
        results: list[Json] = []
        while True:
            page = _object(
                await self._get(path, parameters | {"limit": _LIST_PAGE, "offset": len(results)}, signed=signed)
            )
            results += page["results"]
            if page.get("endOfRecords", True) or not page["results"] or (at_most and len(results) >= at_most):
                return results[:at_most]

    async def _get(self, path: str, parameters: Mapping[str, Any] | None = None, *, signed: bool = False) -> Any:
        return await self._ask("GET", path, parameters, signed=signed)

    async def _ask(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None = None,
        body: Json | None = None,
        *,
        signed: bool = False,
    ) -> Any:
        """A request that changes nothing: repeated whatever went wrong in passing."""
        pairs = [
            (name, str(one))
            for name, value in (parameters or {}).items()
            for one in (value if isinstance(value, list) else [value])
        ]
        headers = {"Authorization": self._account().authorization} if signed else {}
        url = self.endpoint + path

        async def ask() -> Any:
            self.calls += 1
            async with self._open().request(method, url, params=pairs, json=body, headers=headers) as response:
                return await _answer(response)

        return await self._patience.run(ask, self._unreachable)

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A request that changes something: repeated where GBIF declined or was never reached, and only then."""
        headers = {"Authorization": self._account().authorization}

        async def ask() -> Any:
            self.calls += 1
            try:
                async with self._open().request(method, self.endpoint + path, json=body, headers=headers) as response:
                    return await _answer(response)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise self._unreachable(f"the connection broke: {error or type(error).__name__}") from error

        return await self._patience.run(ask, self._unreachable)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client in an `async with` block")
        return self._session

    def _account(self) -> Credentials:
        address = urlsplit(self.endpoint)
        if address.scheme != "https" and address.hostname not in LOOPBACK:
            raise NotAuthorised(
                f"the GBIF password is not sent to {self.endpoint}, which is not encrypted", "use an https endpoint"
            )
        return self._credentials or Credentials.from_environment()

    def _unreachable(self, cause: str) -> Unreachable:
        says = f"GBIF ({self.endpoint}) cannot be reached: {cause}"
        return Unreachable(says, "check the network and the endpoint, and run again")


def _search_parameters(query: Mapping[str, Any], checklist: str | None) -> Json:
    parameters = as_query(query)
    check_taxon_keys(parameters, checklist or parameters.get("checklistKey"))
    return parameters | ({"checklistKey": checklist} if checklist else {})


async def _counts(ask: Callable[[Json], Awaitable[Json]]) -> dict[str, int]:
    """The counts of a facet, page by page."""
    counts: dict[str, int] = {}
    while True:
        answer = await ask({"facetLimit": _FACET_PAGE, "facetOffset": len(counts)})
        page = [one for facet in answer.get("facets", []) for one in facet["counts"]]
        counts |= {one["name"]: one["count"] for one in page}
        if len(page) < _FACET_PAGE:
            return counts


async def _answer(response: aiohttp.ClientResponse) -> Any:
    text = await _text(response)
    if response.status >= 400:
        _raise(response, text)
    if "json" not in response.content_type:
        return text
    try:
        return json.loads(text) if text else None
    except ValueError:
        # GBIF answers a request with the bare key and calls it JSON
        return text


async def _text(response: aiohttp.ClientResponse) -> str:
    """The body as text, up to LARGEST_ANSWER."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(1024**2):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise Unreachable(
                f"{response.url.with_query(None)} answers more than {LARGEST_ANSWER // 1024**2} MiB",
                "check the gbif_url setting: GBIF's answers are smaller",
            )
    return body.decode("utf-8", "replace")


def _object(answer: Any) -> Json:
    """An answer that has to be a JSON object."""
    if not isinstance(answer, dict):
        said = " ".join(str(answer).split())[:_LONGEST_TEXT]
        raise Unreachable(f"the answer is not GBIF's: {said!r}", "check the gbif_url setting, and the network's proxy")
    return answer


_ERRORS: dict[int, tuple[Callable[[str, str], GbifError], str]] = {
    401: (NotAuthorised, "check GBIF_USER (the user name, not the e-mail address) and GBIF_PWD"),
    403: (NotAuthorised, "it belongs to another account: check GBIF_USER"),
    404: (NotFound, "check the key or the DOI"),
    410: (NotFound, "check the key or the DOI"),
    413: (BadRequest, "make the predicate smaller: fewer values, or a simpler polygon"),
}


def _raise(response: aiohttp.ClientResponse, text: str) -> NoReturn:
    said = " ".join(text.split())[:_LONGEST_TEXT]
    cause = f"{response.url.with_query(None)} answered {response.status}: {said or response.reason}"
    if response.status in TRANSIENT_STATUS:
        raise Transient(cause, retry_after(response.headers.get("Retry-After")))
    kind, next_step = _ERRORS.get(response.status, (BadRequest, "correct the request as GBIF says"))
    raise kind(cause, next_step)
