"""How each emotion is spelled, drawn and called in Chinese; the same in every corpus, figure and page."""

from collections.abc import Iterable
from typing import NamedTuple


class Emotion(NamedTuple):
    """One emotion."""

    name: str  # as this package spells it
    aliases: tuple[str, ...]  # other spellings found in corpora, lower case
    color: str  # #rrggbb; the first eight of Okabe & Ito (2008), which colour-blind readers tell apart
    sign: str  # a character with the shape of ``marker``
    marker: str  # matplotlib's name of that shape
    dash: str  # SVG ``stroke-dasharray`` of its line
    stripes: tuple[int, ...]  # angles of the lines of its pattern in degrees, 0 lying flat; none for a plain area
    chinese: str  # its Chinese name

    @property
    def hatch(self) -> str:
        """The pattern as matplotlib spells it."""
        return "".join({0: "--", 45: "//", 90: "||", 135: "\\\\"}[angle] for angle in self.stripes)

    @property
    def fill(self) -> str:
        """Colour and pattern as a CSS background: lighter lines over the colour."""
        lines = "transparent 0 6px,rgb(255 255 255/.4) 6px 9px"  # a gradient runs across its lines
        layers = [f"repeating-linear-gradient({-angle}deg,{lines})" for angle in self.stripes]
        return ",".join([*layers, f"linear-gradient({self.color},{self.color})"])


EMOTIONS = (
    Emotion("angry", ("anger", "ang"), "#D55E00", "▲", "^", "", (), "愤怒"),
    Emotion("happy", ("happiness", "hap", "joy"), "#E69F00", "★", "*", "7 4", (45,), "高兴"),
    Emotion("sad", ("sadness",), "#0072B2", "▼", "v", "2 3", (135,), "悲伤"),
    Emotion("neutral", ("neu",), "#8C8C8C", "●", "o", "10 3 2 3", (90,), "中性"),
    Emotion("fearful", ("fear", "fea", "afraid"), "#CC79A7", "◆", "D", "14 5", (0,), "恐惧"),
    Emotion("disgust", ("disgusted", "dis"), "#009E73", "✖", "X", "5 2 1 2 1 2", (45, 135), "厌恶"),
    Emotion("surprised", ("surprise", "sur"), "#56B4E9", "✚", "P", "1 5", (0, 90), "惊讶"),
    Emotion("excited", ("exc",), "#F0E442", "■", "s", "18 3 3 3", (0, 45), "激动"),
    Emotion("bored", ("boredom",), "#999933", "▶", ">", "4 2", (90, 135), "无聊"),
    Emotion("calm", (), "#6A3D9A", "⬢", "h", "8 2 2 2", (0, 135), "平静"),
    Emotion("frustrated", ("frustration", "fru"), "#7B4F2B", "⬟", "p", "12 4 4 4", (45, 90), "沮丧"),
    Emotion("contempt", ("contemptuous",), "#882255", "◀", "<", "6 6", (0, 45, 90), "轻蔑"),
)
_BY_SPELLING = {spelling: emotion for emotion in EMOTIONS for spelling in (emotion.name, *emotion.aliases)}


def find_emotion(spelling: str) -> Emotion | None:
    """The emotion with this name or alias in any case; None for a name that is not known."""
    return _BY_SPELLING.get(spelling.strip().lower())


def common_name(spelling: str) -> str:
    """The one name of an emotion, however it is spelled; an unknown name stays as it is."""
    emotion = find_emotion(spelling)
    return emotion.name if emotion else spelling


def looks(names: Iterable[str]) -> dict[str, Emotion]:
    """The emotion that each name is drawn as; an unknown name gets a look that none of the others uses."""
    names = list(names)
    known = {name: emotion for name in names if (emotion := find_emotion(name))}
    free = [emotion for emotion in EMOTIONS if emotion not in known.values()] or list(EMOTIONS)
    unknown = sorted(set(names) - set(known))
    return {name: known.get(name) or free[unknown.index(name) % len(free)] for name in names}


def chinese_name(name: str) -> str:
    """The Chinese name of an emotion; an unknown name stays as it is."""
    emotion = find_emotion(name)
    return emotion.chinese if emotion else name
