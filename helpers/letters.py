"""Letters that nobody sees, letters that look alike, and wrappings around a question. Standard library only."""

import re
import unicodedata
from collections.abc import Iterator

# Characters without a picture that are not of Unicode's categories for spaces, controls and format marks: the
# rest of Default_Ignorable_Code_Point (DerivedCoreProperties.txt), and the blank Braille pattern.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_UNSEEN_KINDS = {"Cc", "Cf", "Zs", "Zl", "Zp"}

# Small letters and marks that look like others, after NFKD and casefold: Cyrillic, Greek, phonetic, quotes, dashes.
_LOOK_ALIKE = str.maketrans(
    "авсԁеһіјкӏмноԛрѕтѵԝхуαβεηικνορτυχγɑɡı‘’‚‛`ʹʼ′“”„‟«»″‐‑‒–—―−⁄∕∗",
    "abcdehijklmhoqpstvwxyabenikvoptuxyagi''''''''\"\"\"\"\"\"\"-------//*",
)

# Sentences that fixed prompts begin with: Alpaca's two (Taori et al. 2023), Unsloth's "alpaca" and "vicuna".
_PREAMBLES = """\
below is an instruction that describes a task. write a response that appropriately completes the request.
below is an instruction that describes a task, paired with an input that provides further context. \
write a response that appropriately completes the request.
below are some instructions that describe some tasks. write responses that appropriately complete each request.
a chat between a curious user and an artificial intelligence assistant. the assistant gives helpful, \
detailed, and polite answers to the user's questions.
""".splitlines()
_SPEAKERS = "system|user|assistant|human|gpt|model"
_WORDS = f"{_SPEAKERS}|instruction|input|output|response|question|answer|prompt|query|request"
# What separates a question from its wrapping: those sentences, the marks of chat templates, labels, ends of lines.
_WRAPPING = re.compile(
    "|".join(
        [
            *(r"\s+".join(map(re.escape, sentence.split())) for sentence in _PREAMBLES),
            r"</?s>|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>(?:user\b|model\b)?",
            rf"<\|[^|<>\n]{{1,40}}\|>(?:\s*(?:{_SPEAKERS})\b)?",
            rf"#{{2,}}\s*(?:{_WORDS})\b\s*:?",
            rf"[*_]*\b(?:{_WORDS})\s*[*_]*:[*_]*",
            r"(?:^|(?<=\n))\s*[qa]\s*:",
            "[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+",
        ]
    )
)
_BEFORE, _AFTER = "#.,:;!?\"'*_~|<>([{-¿¡。、，", ".,:;!?\"'*_~|<>)]}-。、，"
# A part of a text counts as a question only from this many letters on; a whole text always does.
_LEAST = 10


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: no character, or only spaces, line ends and invisible ones."""
    return all(unicodedata.category(c) in _UNSEEN_KINDS or _UNSEEN.match(c) for c in text)


def plain(text: str) -> str:
    """A text as it looks: one form for letters that look alike, no capitals, accents or invisible characters."""
    if not text.isascii():
        # Twice: casefold may give letters that can be taken apart once more.
        text = unicodedata.normalize("NFKD", text).casefold()
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf" and not _is_accent(c))
        text = _UNSEEN.sub("", text).translate(_LOOK_ALIKE)
    return text.casefold()


def _is_accent(char: str) -> bool:
    return "\u0300" <= char <= "\u036f"


def bare(question: str) -> str:
    """A question without wrapping, spaces, and punctuation at its ends: equal for questions that look alike."""
    return _join(_parts(question)) or "".join(plain(question).split()) or question


def possible_questions(text: str, longest: int) -> Iterator[str]:
    """What a text may ask, each as `bare` gives it: the whole of it, and all neighbouring parts together.

    Args:
        text: what a user or a system message says.
        longest: no question longer than this many letters is of interest.
    """
    yield bare(text)
    parts = _parts(text)
    for start in range(len(parts)):
        length = 0
        for end in range(start, len(parts)):
            length += len(parts[end])
            # Some more, for punctuation at the ends.
            if length > longest + 20:
                break
            found = _join(parts[start : end + 1])
            if len(found) >= _LEAST:
                yield found


def _parts(text: str) -> list[str]:
    """A text in plain letters, split where wrappings and lines end, without spaces."""
    parts = ["".join(part.split()) for part in _WRAPPING.split(plain(text))]
    return [part for part in parts if part]


def _join(parts: list[str]) -> str:
    return "".join(parts).lstrip(_BEFORE).rstrip(_AFTER)
