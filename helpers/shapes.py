"""One row of a file, in any of the shapes people keep conversations in, to the course's. Standard library only."""

import json
import re
import sys
from collections import Counter

from helpers.letters import is_blank

# How the two spellings of the homework, and ShareGPT-like files, name a speaker.
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
ROLES |= {"system": "system"}

# One of these makes an object a row; the first that a row has says how to read it.
LISTS = ("conversations", "messages")
SHAPES = (*LISTS, "instruction", "prompt")
SYSTEM = ("system", "system_prompt")
# Fields that hold a part of the conversation where they hold anything: never passed over in silence.
PARTS = {
    *SHAPES,
    *("input", "output", "completion", "history", "text", "context", "documents", "knowledge"),
    *("question", "query", "answer", "response", "chosen", "rejected", "refusal"),
    *("tools", "functions", "tool_calls", "function_call", "tool_call_id"),
    *("thinking", "reasoning", "reasoning_content", "image", "images", "audio", "audios", "video"),
    "videos",
}
_NOTHING = ("", "[]", "{}", "null", [], {}, None)


class Unusable(ValueError):
    """Why a row cannot be used.

    Args:
        why: the reason, with what was found in this row.
        kind: the reason alone, for counting; without it, ``why`` up to the first bracket.
    """

    def __init__(self, why: str, kind: str | None = None):
        super().__init__(why)
        self.kind = kind or why.partition(" (")[0]


def course_row(raw: object, number: int, unread: Counter | None = None) -> dict:
    """A row in the course's form: ``id``, ``conversations`` of ``{"role", "content"}``, ``score``.

    Args:
        raw: what the file holds.
        number: of the row, from 1; a row without an id is called ``row_<number>``.
        unread: counts the fields that were not read, such as ``category``.

    Raises:
        Unusable: with the reason.
    """
    if not isinstance(raw, dict):
        raise Unusable(f"a {type(raw).__name__} instead of an object")
    messages, used = _messages(raw)
    messages = [_message(message, unread) for message in messages]
    used |= {"id", "score"}
    for name in SYSTEM:
        if name in raw and name not in used:
            messages = _with_system(messages, name, raw[name])
            used.add(name)
    _check_rest(raw, used, messages, unread)
    _check_turns(messages)
    return {
        "id": _id(raw.get("id"), number),
        "conversations": messages,
        "score": _score(raw.get("score")),
    }


# ------------------------------------------------------------------------------------------ the shapes
def _messages(raw: dict) -> tuple[list, set[str]]:
    """A row's messages as they are written, and the fields they come from."""
    shape = next((name for name in SHAPES if raw.get(name) not in _NOTHING), None)
    if shape in LISTS:
        return _list(raw, shape), {shape}
    # An empty text is a question too, if a bad one: it is then named as such.
    shape = shape or next((name for name in SHAPES if isinstance(raw.get(name), str)), None)
    if shape == "instruction":
        return _alpaca(raw), {"instruction", "input", "output", "history"}
    if shape == "prompt":
        return _prompt_completion(raw), {"prompt", "completion"}
    raise Unusable(f"no conversation (its fields: {_named(raw)})")


def _list(raw: dict, name: str) -> list:
    messages = raw[name]
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            raise Unusable(f"no conversation ({name!r} is text, and not JSON)") from None
    if not isinstance(messages, list) or not messages:
        raise Unusable(
            f"no conversation ({name!r} holds a {type(messages).__name__}, not messages)"
        )
    return messages


def _alpaca(raw: dict) -> list[dict]:
    """Alpaca's row; earlier exchanges may stand in ``history``, as LLaMA-Factory writes them."""
    parts = [raw.get("instruction"), raw.get("input") or "", raw.get("output")]
    if not all(isinstance(part, str) for part in parts):
        raise Unusable("instruction, input and output must be text")
    history = [] if raw.get("history") in _NOTHING else raw["history"]
    pairs = isinstance(history, list) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in history
    )
    if not pairs:
        raise Unusable("its history is not a list of pairs, question and answer")
    question = "\n".join(part for part in parts[:2] if part)
    texts = [text for pair in [*history, (question, parts[2])] for text in pair]
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def _prompt_completion(raw: dict) -> list:
    """TRL's row: two texts, or two lists of messages; without a completion it is a question to answer."""
    messages = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(raw.get(name), str):
            messages.append({"role": role, "content": raw[name]})
        elif raw.get(name) not in _NOTHING:
            messages += _list(raw, name)
    return messages


# ----------------------------------------------------------------------------------------- its messages
def _message(message: object, unread: Counter | None) -> dict:
    if not isinstance(message, dict):
        raise Unusable("a message that is not an object")
    role, content = _either(message, "role", "from"), _either(message, "content", "value")
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise Unusable(f"unknown role {role!r:.40} (known: {', '.join(ROLES)})")
    if isinstance(content, list) and content:
        content = _text_of_parts(content)
    if not isinstance(content, str) or is_blank(content):
        raise Unusable(f"the {known}'s message is empty or not text")
    if re.search("[\ud800-\udfff]", content):
        raise Unusable(f"the {known}'s message holds half a letter (a lone surrogate)")
    clean = {"role": known, "content": content}
    _check_rest(message, {"role", "from", "content", "value"}, [clean], unread)
    return clean


def _either(message: dict, first: str, second: str) -> object:
    """The one of two fields that holds something."""
    found = [message[name] for name in (first, second) if message.get(name) is not None]
    if len(found) == 2 and first == "content" and found[0] != found[1]:
        raise Unusable(f"a message with two texts, in {first!r} and in {second!r}")
    return found[0] if found else None


def _text_of_parts(parts: list) -> object:
    """OpenAI's form of a message: a list of ``{"type": "text", "text": …}``, put together line by line."""
    texts = []
    for part in parts:
        if not isinstance(part, dict):
            return None
        filled = {name: value for name, value in part.items() if value not in _NOTHING}
        kind = filled.get("type")
        if set(filled) != {"type", "text"} or kind != "text" or not isinstance(part["text"], str):
            raise Unusable(f"a message with a part that is not text (type {kind!r:.40})")
        texts.append(part["text"])
    return "\n".join(texts)


def _with_system(messages: list[dict], name: str, text: object) -> list[dict]:
    """The messages with a row's own system message first."""
    if text in _NOTHING or (isinstance(text, str) and is_blank(text)):
        return messages
    first = _message({"role": "system", "content": text}, None)
    if messages[0]["role"] != "system":
        return [first, *messages]
    if messages[0] != first:
        raise Unusable(f"two system messages (one in {name!r}, one in the list)")
    return messages


def _check_rest(fields: dict, used: set[str], messages: list[dict], unread: Counter | None) -> None:
    """Refuse fields that hold more of the conversation; count the others that were not read."""
    texts = [message["content"] for message in messages]
    for name, value in fields.items():
        if name in used or value in _NOTHING or (isinstance(value, str) and is_blank(value)):
            continue
        if name in PARTS or _looks_like_messages(value):
            # Written twice: a text whose lines all stand in the messages, or one in which all their lines stand.
            lines = [line.strip() for text in texts for line in text.splitlines()]
            again = isinstance(value, str) and (
                all(line.strip() in lines for line in value.splitlines())
                or all(line in value for line in lines)
            )
            if not (again or _same_messages(value, messages)):
                raise Unusable(
                    f"its field {name!r:.40} would be lost", "a field that would be lost"
                )
        elif unread is not None:
            unread[name] += 1


def _same_messages(value: object, messages: list[dict]) -> bool:
    """Whether a field holds the row's messages once more, in any spelling."""
    try:
        return isinstance(value, list) and [_message(one, None) for one in value] == messages
    except Unusable:
        return False


def _looks_like_messages(value: object) -> bool:
    """A list of objects with a speaker, or of pairs of text."""
    if not isinstance(value, list):
        return False
    return all(
        {"role", "from"} & set(item)
        if isinstance(item, dict)
        else isinstance(item, list) and len(item) == 2 and all(isinstance(t, str) for t in item)
        for item in value
    )


def _check_turns(messages: list[dict]) -> None:
    roles = [message["role"] for message in messages]
    turns = [role for role in roles if role != "system"]
    pairs, left = divmod(len(turns), 2)
    if not turns or turns != ["user", "assistant"] * pairs + ["user"] * left:
        found = ", ".join(roles[:6]) + (", …" if len(roles) > 6 else "")
        raise Unusable(f"user and assistant do not take turns, the user first (found: {found})")
    if roles[-1] == "system":
        raise Unusable("a system message stands last")


# ------------------------------------------------------------------------------------- id, score, names
def _id(found: object, number: int) -> str:
    if found is None:
        return f"row_{number}"
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise Unusable(f"id {found!r:.40} is not text", "an id that is not text")
    if re.search("[\ud800-\udfff]", str(found)):
        raise Unusable(f"id {found!r:.40} holds half a letter", "an id that is not text")
    return str(found)


def _score(found: object) -> float | None:
    if found is None:
        return None
    number_like = isinstance(found, int | float) and not isinstance(found, bool)
    if not (number_like and abs(found) <= sys.float_info.max):
        comma = isinstance(found, str) and re.fullmatch(r"-?\d+,\d+", found.strip())
        point = "; write it with a point, as 4.5" if comma else ""
        raise Unusable(
            f"score {found!r:.40} is not a number{point}", "a score that is not a number"
        )
    return float(found)


def _named(raw: dict) -> str:
    """The fields of a row, for a message."""
    names = [f"{name!r:.40}" for name in list(raw)[:8]]
    return ", ".join(names + ["…"] * (len(raw) > 8)) or "none"
