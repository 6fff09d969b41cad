"""How the sandbox's API refuses, signs users in and cuts lists into pages, as GBIF does."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from aiohttp import web

JsonObject = dict[str, Any]
_PAGE, _MOST_ON_A_PAGE = 20, 1000


class Refusal(Exception):
    """A request that is answered with this status and plain text; raised anywhere below a route."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text

    def response(self) -> web.Response:
        """The answer; 420 has no reason phrase of its own, so GBIF's is given."""
        reason = "Enhance Your Calm" if self.status == 420 else None
        headers = {"WWW-Authenticate": 'Basic realm="GBIF"'} if self.status == 401 else None
        return web.Response(status=self.status, reason=reason, text=self.text, headers=headers)


def signed_in(request: web.Request, users: Mapping[str, str]) -> str:
    """The user of HTTP Basic authentication; 401 without, with an unknown one or a wrong password."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    try:
        name, _, password = base64.b64decode(token, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        name = password = ""
    if scheme.lower() != "basic" or name not in users or users[name] != password:
        raise Refusal(401, "Unauthorized")
    return name


async def json_object(request: web.Request) -> JsonObject:
    """The request's body; 400 when it is not a JSON object."""
    try:
        body = json.loads(await request.text())
    except ValueError as mistake:
        raise Refusal(400, f"JSON parse error: {mistake}") from None
    if not isinstance(body, dict):
        raise Refusal(400, "JSON parse error: an object is expected")
    return body


def paging(request: web.Request) -> tuple[int, int]:
    """`offset` and `limit` of a request, the limit clamped; 400 when one is not a whole number."""
    try:
        offset, limit = int(request.query.get("offset") or 0), int(request.query.get("limit") or _PAGE)
    except ValueError as mistake:
        raise Refusal(400, f"offset and limit are whole numbers: {mistake}") from None
    return max(0, offset), min(max(0, limit), _MOST_ON_A_PAGE)


def page(results: Sequence[JsonObject], offset: int, limit: int) -> JsonObject:
    """GBIF's paged list."""
    return {
        "offset": offset,
        "limit": limit,
        "endOfRecords": offset + limit >= len(results),
        "count": len(results),
        "results": list(results[offset : offset + limit]),
    }


def timestamp(moment: datetime) -> str:
    """Such as `2026-01-15T09:00:00.000+00:00`."""
    return moment.isoformat(timespec="milliseconds")
