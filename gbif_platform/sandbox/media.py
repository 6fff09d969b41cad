"""The sandbox's image host: draws what was photographed when it is asked for, and fails where a real host would."""

import asyncio
from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO

from aiohttp import web

from gbif_platform.sandbox.organisms import draw
from gbif_platform.sandbox.records import Medium, Trouble

_HTML = "<!doctype html><html><head><title>Sign in</title></head><body><h1>Please sign in</h1></body></html>\n"
_KEPT_PICTURES = 2048  # about 60 MB


@lru_cache(maxsize=_KEPT_PICTURES)
def picture(medium: Medium) -> bytes:
    """The medium's JPEG, drawn once."""
    stream = BytesIO()
    draw(medium.species, medium.drawing_seed, medium.size).save(stream, "JPEG", quality=88)
    return stream.getvalue()


class ImageHost:
    """Answers for the media of everything published."""

    def __init__(self) -> None:
        self._media: dict[str, Medium] = {}
        self._met: set[str] = set()  # paths that have been busy once

    def add(self, media: Iterable[Medium]) -> None:
        """Answer for these media from now on."""
        self._media.update((medium.path, medium) for medium in media)

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.get("/media/{token}/{name}", self._answer)]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        medium = self._media.get(request.path)
        if medium is None or medium.trouble is Trouble.NOT_FOUND:
            raise web.HTTPNotFound
        if medium.trouble is Trouble.HTML_PAGE:
            return web.Response(text=_HTML, content_type="text/html")
        if medium.trouble is Trouble.SOUND:
            return web.Response(body=b"ID3" + bytes(1021), content_type="audio/mpeg")
        if medium.trouble is Trouble.BUSY_ONCE and request.path not in self._met:
            self._met.add(request.path)
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"})
        body = await asyncio.to_thread(picture, medium)
        if medium.trouble is Trouble.TRUNCATED:
            return await _cut_short(request, body)
        return web.Response(body=body, content_type="image/jpeg")


async def _cut_short(request: web.Request, body: bytes) -> web.StreamResponse:
    """Promise the whole length, send half of it and hang up."""
    response = web.StreamResponse(headers={"Content-Type": "image/jpeg", "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
