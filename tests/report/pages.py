"""A reader of HTML: nesting, attributes and text, by the standard library's parser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}  # elements that have no end


@dataclass
class Element:
    """An element with what is inside: further elements and text, in their order."""

    tag: str
    attributes: dict[str, str]
    content: list["Element | str"] = field(default_factory=list)

    def all(self, tag: str) -> list["Element"]:
        """Every element of this name below, in the order of the page."""
        return [element for element in self.elements() if element.tag == tag]

    def elements(self) -> list["Element"]:
        inside = [part for part in self.content if isinstance(part, Element)]
        return [element for part in inside for element in (part, *part.elements())]

    @property
    def text(self) -> str:
        """All text below, white space collapsed."""
        return " ".join(self.raw.split())

    @property
    def raw(self) -> str:
        """All text below, as it stands."""
        return "".join(part if isinstance(part, str) else part.raw for part in self.content)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].content.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].content.append(data)


def parse(html: str) -> Element:
    """Read a page; fails where an element is left open or closed by another's end."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], f"left open: {[e.tag for e in reader.open[1:]]}"
    return reader.root
