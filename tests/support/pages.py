"""What stands in the page of a report."""

from html.parser import HTMLParser

Table = list[list[str]]


class Tables(HTMLParser):
    """The tables that have a class, each as the text of its cells by row; lists of reasons; alternatives of pictures.

    Those of several volumes follow each other.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tables: dict[str, list[Table]] = {}
        self.reasons: list[list[str]] = []
        self.pictures: list[str] = []
        self._words: list[str] | None = None
        self._rows: Table = []
        self._items: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "table":
            self._rows = []
            self.tables.setdefault(found.get("class") or "", []).append(self._rows)
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._words = []
            self._rows[-1].append("")
        elif tag == "ul" and found.get("class") == "reasons":
            self.reasons.append([])
            self._items = self.reasons[-1]
        elif tag == "ul":
            self._items = []
        elif tag == "li":
            self._words = []
        elif tag == "img":
            self.pictures.append(found["alt"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "li"):
            text = " ".join("".join(self._words or []).split())
            if tag == "li":
                self._items.append(text)
            else:
                self._rows[-1][-1] = text
            self._words = None

    def handle_data(self, data: str) -> None:
        if self._words is not None:
            self._words.append(data)
