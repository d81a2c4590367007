"""Reads pages of HTML, strictly."""

from html.parser import HTMLParser

VOID = {"meta", "img", "rect", "circle", "polyline", "line"}


class Reader(HTMLParser):
    """Reads a page; raises where a tag is not closed in its turn."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.rows, self.words = [], [], [], [], []
        self.source = source
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *one) for one in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *one) for one in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")
