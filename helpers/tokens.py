"""Messages to token ids: marks that the chat template writes are marks, the same letters in a message are text.

A tokenizer looks for its marks (``<s>``, ``<|im_end|>`` and so on) everywhere in a text. A message that explains
one would then end its own turn. So this file works with a copy of the tokenizer in which every mark has a name
that no text holds, and gives these names to the marks of the template only. All ids stay the same.
"""

import json
import re
import weakref
from typing import TYPE_CHECKING, NamedTuple

from helpers.errors import CourseError
from helpers.shapes import Unusable

if TYPE_CHECKING:
    from datasets import Dataset

# Two characters that Unicode keeps for use inside programs: no text holds them ("noncharacters", chapter 23.7).
_MARK, _TEXT = "\U000efffe", "\U000effff"


class _Renamed(NamedTuple):
    """A copy of a tokenizer whose marks have other names, the marks, longest first, and how many tokens it knew."""

    tokenizer: object
    marks: list[str]
    size: int


_copies: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def token_ids(
    tokenizer, messages: list[dict], *, add_generation_prompt: bool = False, start: str = ""
) -> list[int]:
    """The tokens of a conversation, as ``tokenizer.apply_chat_template`` gives them where no message has marks.

    Args:
        tokenizer: with a chat template.
        messages: ``{"role", "content"}`` each.
        add_generation_prompt: end where the answer has to begin.
        start: the first words of that answer.

    Raises:
        CourseError: the template refuses the messages, or a text holds a character that this file needs.
    """
    copy = _renamed(tokenizer)
    find = re.compile("|".join(map(re.escape, copy.marks)) or "(?!)")
    number = {mark: i for i, mark in enumerate(copy.marks)}
    hidden = [
        m | {"content": find.sub(lambda found: f"{_TEXT}{number[found[0]]}{_TEXT}", m["content"])}
        for m in messages
    ]
    try:
        _check_letters([*messages, {"content": start}])
        text = _rendered(tokenizer, hidden, add_generation_prompt)
    except Unusable as error:
        raise CourseError(
            f"These messages cannot be used: {error}.",
            "A model reads what its chat template makes of the messages.",
            "Take other rows: load_conversations(…, tokenizer=tokenizer, skip_unusable=True) leaves them out.",
        ) from error
    text = find.sub(lambda found: _name(number[found[0]]), text)
    text = re.sub(f"{_TEXT}(\\d+){_TEXT}", lambda found: copy.marks[int(found[1])], text)
    return copy.tokenizer.encode(text + start, add_special_tokens=False).ids


def learned_ids(tokenizer, prompt: list[dict], completion: list[dict]) -> tuple[list[int], int]:
    """All tokens of a prompt/completion row, and how many of them come before the answer and are only read.

    As TRL counts them: up to the first token in which prompt, and prompt with completion, differ.
    """
    before = token_ids(tokenizer, prompt, add_generation_prompt=True)
    whole = token_ids(tokenizer, prompt + completion)
    same = (a == b for a, b in zip(before, whole, strict=False))
    return whole, next(
        (i for i, equal in enumerate(same) if not equal), min(len(before), len(whole))
    )


def check_template(tokenizer, messages: list[dict]) -> None:
    """Raise `Unusable` if the tokenizer's chat template refuses these messages, or leaves one of them out."""
    _check_letters(messages)
    text, place = _rendered(tokenizer, messages, False), 0
    for message in messages:
        content = message["content"].strip()
        place = text.find(content, place)
        if place < 0:
            raise Unusable(
                f"the chat template leaves out or changes the {message['role']}'s message"
            )
        place += len(content)


def keep_marks_as_text(tokenised: "Dataset", rows: "Dataset", tokenizer) -> "Dataset":
    """A trainer's tokenised rows, those done again in which a message holds the tokenizer's own marks.

    Args:
        tokenised: ``trainer.train_dataset``: ``input_ids``, and ``labels`` or ``completion_mask``.
        rows: the prompt/completion rows that the trainer was given, in the same order.
        tokenizer: the model's.
    """
    if len(tokenised) != len(rows):
        raise CourseError(
            f"The trainer kept {len(tokenised)} of {len(rows)} rows.",
            "It leaves out rows whose answer would be cut off, or was given other rows.",
            "Build the trainer again from the same rows, with a larger max_length.",
        )
    columns = tokenised.to_dict()
    changed = False
    for i, row in enumerate(rows):
        ids, start = learned_ids(tokenizer, row["prompt"], row["completion"])
        if columns["input_ids"][i] == ids:
            continue
        changed = True
        learned = len(ids) - start
        new = {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "completion_mask": [0] * start + [1] * learned,
            "labels": [-100] * start + ids[start:],
        }
        for name in columns.keys() & new.keys():
            columns[name][i] = new[name]
    return type(tokenised).from_dict(columns, features=tokenised.features) if changed else tokenised


def _rendered(tokenizer, messages: list[dict], add_generation_prompt: bool) -> str:
    if not hasattr(tokenizer, "apply_chat_template"):
        raise CourseError(
            f"{tokenizer!r:.40} is no tokenizer.",
            "A tokenizer's chat template makes of messages the text that a model reads.",
            "Pass on what models.load or models.load_tokenizer returned.",
        )
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    # A template is a program of somebody else's, and stops with any error.
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages[:6])
        short = " ".join(str(error).split())[:120]
        raise Unusable(
            f"the chat template refuses it (speakers: {roles}{', …' * (len(messages) > 6)}; it says: {short})"
        ) from error


def _check_letters(messages: list[dict]) -> None:
    for message in messages:
        found = re.search(f"[{_MARK}{_TEXT}]", message["content"])
        if found:
            raise Unusable(f"a message holds U+{ord(found[0]):X}, which Unicode keeps for programs")


def _name(number: int) -> str:
    return f"{_MARK}{number}{_MARK}"


def _renamed(tokenizer) -> _Renamed:
    """The copy of a tokenizer, made once and again when tokens were added to it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CourseError(
            f"The tokenizer {type(tokenizer).__name__} cannot be used in this course.",
            "It is not one of the Tokenizers library (a *fast* one), so marks inside texts could not be told "
            "from its own.",
            "Use a model that has a tokenizer.json; all Llama-like ones do.",
        )
    special = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
    marks = sorted(special, key=lambda mark: (-len(mark), mark))
    copy = _copies.get(tokenizer)
    size = backend.get_vocab_size(with_added_tokens=True)
    if copy is None or (copy.marks, copy.size) != (marks, size):
        copy = _copies[tokenizer] = _Renamed(_with_names(backend, marks), marks, size)
    return copy


def _with_names(backend, marks: list[str]):
    """A copy of a tokenizer of the Tokenizers library with `_name(i)` in place of ``marks[i]``."""
    from tokenizers import Tokenizer

    names = {mark: _name(i) for i, mark in enumerate(marks)}
    parts = json.loads(backend.to_str())
    # Cutting and padding belong to a call; what the post-processor adds, the template has written already.
    parts |= {"truncation": None, "padding": None, "post_processor": None}
    for token in parts["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = parts["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    elif vocabulary:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    # No letters may be put together to a mark.
    if "merges" in model:
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
    copy = Tokenizer.from_str(json.dumps(parts))
    moved = [
        mark for mark, name in names.items() if copy.token_to_id(name) != backend.token_to_id(mark)
    ]
    if moved:
        raise CourseError(
            f"This tokenizer's marks cannot be told from text (such as {moved[0]!r}).",
            "A copy of it that has other names for them gives them other ids.",
            "Use another model; those of the course work.",
        )
    return copy
