"""MkDocs hook: where lines may break: not in intervals, p values and options, but in names behind separators."""

import re

_INTERVAL = re.compile(r"\[([-+]?[\d.]+), ([-+]?[\d.]+)\]")
_OPTION = re.compile(r"(?<![\w-])-[\w-]*(?:=\S+)?")
_OPTION_IN_TEXT = re.compile(r"(?<=[\s(])--[a-z][a-z-]*(?![^<>]*>)")
_OPTION_IN_COMMAND = re.compile(r"(?<=[\s>])--[a-z][a-z-]*(?![^<>]*>)")
_LONG_WORD = re.compile(r"(?<=[\s>(])[\w/.=]{12,}(?![^<>]*>)")
_SEPARATOR = re.compile(r"(?<=[/_=,}])(?=[\w$])|(?<=\w[.-])(?=[A-Za-z_$])")  # not in 0.001 and 1e-5
_P_VALUE = re.compile(r"\(p (<?[\d.]+)\)")
_CHINESE_LINE_END = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])")  # a space else
_LONGEST_WHOLE = 80  # characters of a word of code, with its <wbr>
_PREFORMATTED = re.compile(r"(<pre\b.*?</pre>)", re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Return the page with its line breaks; in preformatted blocks options alone are kept whole."""
    pieces = _PREFORMATTED.split(html)
    return "".join(_whole(_OPTION_IN_COMMAND, piece) if piece.startswith("<pre") else broken(piece) for piece in pieces)


def broken(html: str) -> str:
    """Keep intervals, p values and options whole; names and long words may break (site.css: on a phone)."""
    html = _CHINESE_LINE_END.sub("", html)
    html = _P_VALUE.sub(r"(p&nbsp;\1)", _INTERVAL.sub(r"[\1,&nbsp;\2]", html))
    html = re.sub(r"<code>([^<]*)</code>", lambda code: _code(code[1]), html)
    return _LONG_WORD.sub(lambda word: _breakable(word[0]), _whole(_OPTION_IN_TEXT, html))


def _whole(option: re.Pattern[str], html: str) -> str:
    return option.sub(r'<span class="whole">\g<0></span>', html)


def _code(text: str) -> str:
    words = []
    for word in text.split(" "):
        if _OPTION.fullmatch(word):
            words.append(f'<span class="whole">{word}</span>')
        else:
            words.append(_breakable(word))
    start = '<code class="long">' if max(map(len, words)) > _LONGEST_WHOLE else "<code>"
    return f"{start}{' '.join(words)}</code>"


def _breakable(word: str) -> str:
    return _SEPARATOR.sub("<wbr>", word)
