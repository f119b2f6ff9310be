"""Let a model answer questions, in batches; what decoding chooses between."""

from collections.abc import Sequence

import torch

from helpers import presets, tokens
from helpers.errors import CourseError, check_positive, check_whole

# Rows answered at once; halved by itself when the memory of the GPU does not suffice.
AT_ONCE = 16
DIVIDES = "Logits are divided by it. None, in place of a number, takes the likeliest token each time (greedy)."


def generate(
    model,
    tokenizer,
    prompts: Sequence[str | list[dict]],
    *,
    max_new_tokens: int,
    temperature: float | None = None,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    num_beams: int = 1,
    at_once: int = AT_ONCE,
    seed: int = presets.SEED,
) -> list[str]:
    """One answer for each prompt, in the order of the prompts.

    Args:
        model, tokenizer: as `models.load` gives them, with or without an adapter.
        prompts: questions, or lists of messages that end with the user's. One alone is taken as a list of one.
        max_new_tokens: the longest answer, in tokens.
        temperature: ``None`` always takes the likeliest token (greedy); a number samples, and the larger
            it is, the more often an unlikely token.
        top_p, top_k: sample only among the likeliest tokens that together have probability ``top_p``, and
            among the ``top_k`` likeliest (0: no limit).
        repetition_penalty: above 1, tokens that occurred become less likely (Keskar et al. 2019).
        num_beams: beginnings that are kept at once; 1: no beam search.
        at_once: prompts answered at once.
        seed: of the sampling.

    Raises:
        CourseError: a decoding parameter is out of range, a prompt is longer than the model can read, or even one
            does not fit into memory.
    """
    check_whole("max_new_tokens", max_new_tokens, 1)
    check_whole("at_once", at_once, 1)
    check_whole("num_beams", num_beams, 1)
    check_positive("repetition_penalty", repetition_penalty, "Scores are divided by it.")
    _check_decoding(temperature, top_p, top_k)
    messages = _prompts(prompts)
    asked = [tokens.token_ids(tokenizer, m, add_generation_prompt=True) for m in messages]
    for number, ids in enumerate(asked, 1):
        check_context(
            model,
            len(ids) + max_new_tokens,
            f"Prompt {number} with max_new_tokens = {max_new_tokens}",
        )
    settings = {"max_new_tokens": max_new_tokens, "do_sample": temperature is not None}
    settings |= {"repetition_penalty": repetition_penalty, "num_beams": num_beams}
    if temperature is not None:
        settings |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    torch.manual_seed(seed)
    inference_mode(model)
    return _in_batches(model, tokenizer, asked, settings, at_once)


def _in_batches(
    model, tokenizer, asked: list[list[int]], settings: dict, at_once: int
) -> list[str]:
    """The answers to prompts of token ids, in their order; with half as many at once where memory runs out."""
    # Prompts of similar length together: less padding.
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    answers: dict[int, str] = {}
    while order:
        now, rest = order[:at_once], order[at_once:]
        try:
            for index, answer in zip(
                now, _answer(model, tokenizer, [asked[i] for i in now], settings), strict=True
            ):
                answers[index] = answer
            order = rest
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if at_once == 1:
                raise CourseError(
                    "One answer alone does not fit into the GPU's memory.",
                    "Another model may still be loaded in this notebook.",
                    "Restart the session and run only this notebook, or lower max_new_tokens.",
                ) from error
            at_once = max(1, at_once // 2)
            print(f"Out of GPU memory: going on with {at_once} prompts at once.")
    return [answers[i] for i in range(len(asked))]


def _prompts(prompts: Sequence[str | list[dict]]) -> list[list[dict]]:
    """Each prompt as messages."""
    if isinstance(prompts, dict):  # one message
        prompts = [prompts]
    if not isinstance(prompts, str):
        prompts = list(prompts or [])
    one = isinstance(prompts, str) or (prompts and all(isinstance(p, dict) for p in prompts))
    found = []
    for prompt in [prompts] if one else prompts:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        right = isinstance(messages, list) and all(
            isinstance(m, dict) and {"role", "content"} <= set(m) and isinstance(m["content"], str)
            for m in messages
        )
        if not right or not messages or messages[-1]["role"] != "user":
            raise CourseError(
                f"{prompt!r:.60} is no prompt.",
                "A prompt is a text, or a list of messages with role and content of which the last is the user's.",
                "Pass on a list of texts, or what data.questions returned.",
            )
        found.append(messages)
    return found


def _check_decoding(temperature: float | None, top_p: float, top_k: int) -> None:
    if temperature is not None:
        check_positive("temperature", temperature, DIVIDES)
    if check_positive("top_p", top_p, "It is a share of the probability.") > 1:
        raise CourseError(
            f"top_p = {top_p} is above 1.",
            "It is a share of the probability; 1 keeps every token.",
            "Set top_p to a number above 0 and at most 1.",
        )
    check_whole("top_k", top_k, 0)
    if temperature is None and (top_p, top_k) != (1, 0):
        raise CourseError(
            f"top_p = {top_p:g}, top_k = {top_k} would change nothing.",
            "With temperature = None the likeliest token is taken each time, and nothing is drawn.",
            "Give a temperature too, such as temperature=1.0, or leave both out.",
        )


def check_context(model, count: int, what: str) -> None:
    """CourseError where a model would read or write more tokens than it has positions for."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and count > limit:
        raise CourseError(
            f"{what} takes {count:,} tokens, and this model has {limit:,} positions.",
            "It was trained on texts up to that length; beyond it, what it writes is worthless.",
            "Shorten the text or leave it out; where the model answers, a lower max_new_tokens may be enough.",
        )


def inference_mode(model) -> None:
    """Switch Unsloth's model to answering: no gradients, key/value cache on."""
    switch = getattr(model, "for_inference", None)
    if switch is not None:
        switch()
    else:
        model.eval()


def _answer(model, tokenizer, asked: list[list[int]], settings: dict) -> list[str]:
    longest = max(map(len, asked))
    # Shorter prompts are filled up on the left: the answer follows the last token of each.
    fill = [longest - len(ids) for ids in asked]
    rows = [
        [tokenizer.pad_token_id] * missing + ids for missing, ids in zip(fill, asked, strict=True)
    ]
    mask = [[0] * missing + [1] * (longest - missing) for missing in fill]
    batch = {
        "input_ids": torch.tensor(rows, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }
    with torch.inference_mode():
        try:
            written = model.generate(**batch, **settings, pad_token_id=tokenizer.pad_token_id)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):
                raise
            raise CourseError(
                "No token can be drawn: the probabilities are no numbers (NaN).",
                "The model or its adapter holds such numbers: its training diverged.",
                "Train again with a smaller learning rate or alpha.",
            ) from error
    new = written[:, longest:]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def next_token_logits(model, tokenizer, question: str, start: str = "") -> torch.Tensor:
    """The model's scores for the token that follows ``start`` in its answer to a question.

    Returns:
        One float32 number for each token of the vocabulary (its logit), on the CPU.
    """
    if not isinstance(question, str):
        raise CourseError(
            f"question = {question!r:.60} is no text.",
            "One question is asked, as a text.",
            "Of a row take data.question(row); of messages the last one's content.",
        )
    inference_mode(model)
    messages = [{"role": "user", "content": question}]
    ids = tokens.token_ids(tokenizer, messages, add_generation_prompt=True, start=start)
    ids = torch.tensor([ids], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits[0, -1].float().cpu()


def candidates(
    logits: torch.Tensor, *, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Between which tokens sampling chooses, likeliest first, and with what probability.

    As Transformers does it: divide the logits by the temperature, keep the ``top_k`` largest, then the
    fewest of them whose probabilities reach ``top_p`` together (Holtzman et al. 2020).

    Returns:
        ``(token ids, probabilities)``; the probabilities of those that are left, which sum to 1.
    """
    check_positive("temperature", temperature, DIVIDES)
    _check_decoding(temperature, top_p, top_k)
    kept, ids = torch.sort(logits / temperature, descending=True)
    if top_k:
        kept, ids = kept[:top_k], ids[:top_k]
    probabilities = torch.softmax(kept, 0)
    before = probabilities.cumsum(0) - probabilities
    left = int((before < top_p).sum()) if top_p < 1 else len(ids)
    return ids[:left], probabilities[:left] / probabilities[:left].sum()
