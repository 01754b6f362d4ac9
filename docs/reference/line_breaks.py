"""MkDocs hook: where lines of a page may break: not in an interval, p value or option, in a name behind a separator."""

import re

_INTERVAL = re.compile(r"\[([-+]?[\d.]+), ([-+]?[\d.]+)\]")
_OPTION = re.compile(r"(?<![\w-])-[\w-]*(?:=\S+)?")
_OPTION_IN_TEXT = re.compile(r"(?<=[\s(])--[a-z][a-z-]*(?![^<>]*>)")
_LONG_WORD = re.compile(r"(?<=[\s>(])[\w/.=]{16,}(?![^<>]*>)")
_P_VALUE = re.compile(r"\(p (<?[\d.]+)\)")
_PREFORMATTED = re.compile(r"(<pre\b.*?</pre>)", re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Return the page with its line breaks; preformatted blocks stay as they are."""
    pieces = _PREFORMATTED.split(html)
    return "".join(piece if piece.startswith("<pre") else broken(piece) for piece in pieces)


def broken(html: str) -> str:
    """Keep intervals, p values and options whole; names and long words may break (site.css: on a phone)."""
    html = _P_VALUE.sub(r"(p&nbsp;\1)", _INTERVAL.sub(r"[\1,&nbsp;\2]", html))
    html = re.sub(r"<code>([^<]*)</code>", lambda code: f"<code>{_code(code[1])}</code>", html)
    html = _OPTION_IN_TEXT.sub(r'<span class="whole">\g<0></span>', html)
    return _LONG_WORD.sub(lambda word: _breakable(word[0]), html)


def _code(text: str) -> str:
    words = []
    for word in text.split(" "):
        if _OPTION.fullmatch(word):
            words.append(f'<span class="whole">{word}</span>')
        else:
            words.append(_breakable(word))
    return " ".join(words)


def _breakable(word: str) -> str:
    return re.sub(r"(?<=[/_.=])(?=\w)", "<wbr>", word)
