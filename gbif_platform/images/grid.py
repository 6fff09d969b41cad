"""A contact sheet: a few pictures with captions in one small JPEG, to look at what was fetched."""

from io import BytesIO

from PIL import Image, ImageDraw, ImageFont, ImageOps

from gbif_platform.errors import PlatformError

MARGIN = 4
CAPTION_HEIGHT = 14
FONT_SIZE = 10
# Reports and run pages carry the sheet in their text.
MAX_BYTES = 300_000
# Ever coarser until the sheet fits, then ever fewer pixels.
QUALITIES = (75, 50, 30)


def sample_grid(pictures: list[tuple[bytes, str]], columns: int = 6, tile: int = 128) -> bytes:
    """A JPEG below 300 kB with the (encoded picture, caption) pairs in rows of `columns` tiles of `tile` pixels.

    Raises:
        PlatformError: no picture given.
    """
    if not pictures:
        raise PlatformError("a sample grid needs at least one picture")
    sheet = _sheet(pictures, columns, tile)
    while True:
        for quality in QUALITIES:
            buffer = BytesIO()
            sheet.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() < MAX_BYTES:
                return buffer.getvalue()
        sheet = sheet.reduce(2)


def _sheet(pictures: list[tuple[bytes, str]], columns: int, tile: int) -> Image.Image:
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    step_x, step_y = tile + MARGIN, tile + CAPTION_HEIGHT + MARGIN
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for number, (data, caption) in enumerate(pictures):
        left, top = MARGIN + number % columns * step_x, MARGIN + number // columns * step_y
        with Image.open(BytesIO(data)) as picture:
            sheet.paste(ImageOps.fit(picture.convert("RGB"), (tile, tile)), (left, top))
        draw.text((left, top + tile + 1), _shortened(caption, font, tile), fill="black", font=font)
    return sheet


def _shortened(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    caption = " ".join(caption.split())
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"
