"""Reads the Universal Declaration of Human Rights (one HTML file a language) as translation pairs of paragraphs."""

from collections.abc import Iterator
from html.parser import HTMLParser

from afp_ray.data.readers.files import SourceFile
from afp_ray.data.readers.report import RawRow
from afp_ray.data.readers.streams import read_text

PREAMBLE = "0"
"""Number that stands for the preamble, which is no article."""
_BLOCKS = ("p", "li")


def pair_rows(pivot: SourceFile, other: SourceFile) -> Iterator[RawRow]:
    """Paragraphs in the order of the pivot's file, by number of the article and place in it.

    An article that the other language divides into another number of paragraphs is refused, since its paragraphs
    would be paired by chance.

    Raises: DataError when a file cannot be read.
    """
    theirs = paragraphs(other)
    for article, own in paragraphs(pivot).items():
        translated = theirs.get(article, [])
        refusal = "" if len(translated) == len(own) else "unmatched"
        for place, text in enumerate(own):
            side = "" if refusal else translated[place]
            yield RawRow((text, side), f"{article}.{place + 1}", refusal)


def paragraphs(file: SourceFile) -> dict[str, list[str]]:
    """Texts of the paragraphs and list items by number of the article, headings left out.

    Raises: DataError when the file cannot be read.
    """
    parser = _Declaration()
    parser.feed(read_text(file))
    parser.close()
    return parser.articles


class _Declaration(HTMLParser):
    """Gathers the blocks of each article; a block inside another one ends it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.articles: dict[str, list[str]] = {}
        self._article = ""
        self._block: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("article", "header"):
            self._end_block()
            self._article = PREAMBLE if tag == "header" else (dict(attrs).get("data-number") or "").strip()
        elif tag in _BLOCKS and self._article:
            self._end_block()
            self._block = []
        elif tag == "br" and self._block is not None:
            self._block.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("article", "header"):
            self._end_block()
            self._article = ""
        elif tag in _BLOCKS:
            self._end_block()

    def close(self) -> None:
        """Read what is left; a file may end inside a paragraph."""
        super().close()
        self._end_block()

    def handle_data(self, data: str) -> None:
        if self._block is not None:
            self._block.append(data)

    def _end_block(self) -> None:
        text = " ".join("".join(self._block or []).split())
        if text:
            self.articles.setdefault(self._article, []).append(text)
        self._block = None
