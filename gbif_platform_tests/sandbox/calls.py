"""Plain HTTP calls to a sandbox, and the comparison of its answers with recorded ones."""

import base64
import gzip
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

FROG = ("frog", "secret")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def call(
    method: str,
    url: str,
    body: object = None,
    user: tuple[str, str] | None = None,
    *,
    follow: bool = True,
    **headers: Any,
) -> Reply:
    """Any answer, refusals included; a body that is not bytes is sent as JSON."""
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers, method=method)
    opener = urllib.request.build_opener(*(() if follow else (_NoRedirect(),)))
    try:
        with opener.open(request, timeout=10) as response:
            return Reply(response.status, response.headers, response.read())
    except urllib.error.HTTPError as refusal:
        return Reply(refusal.code, refusal.headers, refusal.read())


def get(url: str, parameters: Iterable[tuple[str, object]] | Mapping[str, object] = (), **options: Any) -> Reply:
    query = urlencode(parameters if isinstance(parameters, Mapping) else list(parameters), doseq=True)
    return call("GET", f"{url}?{query}" if query else url, **options)


def recorded(shared: Path, folder: str, pattern: str = "*") -> list[Any]:
    """The bodies of the recorded answers of a folder."""
    found = []
    for path in sorted((shared / "api/dev" / folder).glob(pattern)):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found.append(json.loads(text)["response"]["body"])
    assert found
    return found


def assert_shape(answer: Any, examples: list[Any], place: str = "answer") -> None:
    """Every key that is served is one of GBIF's, with a value of a recorded type, at any depth."""
    assert type(answer) in {type(example) for example in examples}, f"{place}: {answer!r}"
    if isinstance(answer, dict):
        known = [example for example in examples if isinstance(example, dict)]
        for name, value in answer.items():
            theirs = [example[name] for example in known if name in example]
            assert theirs, f"{place}.{name} was never recorded"
            assert_shape(value, theirs, f"{place}.{name}")
    if isinstance(answer, list):
        elements = [element for example in examples if isinstance(example, list) for element in example]
        for element in answer if elements else []:
            assert_shape(element, elements, f"{place}[]")
