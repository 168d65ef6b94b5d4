"""A run's report.html as a browser takes it: its elements, and its tables by their titles."""

from html.parser import HTMLParser
from pathlib import Path

# All that a report is made of; nothing of it loads or runs anything.
_KNOWN = """html head meta title style body main header div section h1 h2 h3 small dl dt dd p b i
    span strong mark bdi code pre table thead tbody tr th td ol li figure figcaption svg path
    text"""
_VOID = {"meta"}


class ReportPage(HTMLParser):
    """A page that has been read; fails where an element is unknown, unclosed or active.

    Attributes:
        tables: rows of cells as texts, by the title above a table.
        texts: everything that is shown, by the title above it.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self._title = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _KNOWN.split(), tag
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        if tag not in _VOID:
            self._open.append(tag)
        if tag in ("h2", "h3"):
            self._title = ""
        if tag == "table":
            self.tables[self._title] = []
        if tag == "tr":
            self.tables[self._title].append([])
        if tag in ("td", "th"):
            self.tables[self._title][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "h2" in self._open or "h3" in self._open:
            self._title += data
        elif "style" not in self._open:
            self.texts[self._title] = self.texts.get(self._title, "") + data
        if "td" in self._open or "th" in self._open:
            self.tables[self._title][-1][-1] += data

    def scores(self) -> dict[tuple[str, str], str]:
        """The value of each split's metrics, as it is shown."""
        _, *rows = self.tables["Scores"]
        return {(split, name): value for split, name, value, _ in rows}


def check_scores(page: ReportPage, results: dict) -> None:
    """Checks that a page shows the numbers of results.json, and intervals around them."""
    shown = page.scores()
    for split, metrics in results.items():
        if split == "step":
            continue
        kept = {name: value for name, value in metrics.items() if "/" not in name}
        assert {name: f"{value:.4f}" for name, value in kept.items()} == {
            name: value for (where, name), value in shown.items() if where == split
        }
    for _, name, value, reach in page.tables["Scores"][1:]:
        alone = ("loss", "best_f1", "best_f1_thresh", "accuracy_interval")
        assert (reach == "-") == (name in alone), name
        if reach != "-":
            low, high = map(float, reach.split(" to "))
            assert low - 1e-4 <= float(value) <= high + 1e-4
