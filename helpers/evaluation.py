"""Answer questions in batches, measure answers, write predictions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from helpers import presets, tokens, workspace
from helpers.errors import CourseError, check_positive, check_whole, need_rows, need_texts

if TYPE_CHECKING:
    from datasets import Dataset

RESAMPLES = 2000
# Rows answered at once; halved by itself when the memory of the GPU does not suffice.
AT_ONCE = 16
DIVIDES = "Logits are divided by it. None, in place of a number, takes the likeliest token each time (greedy)."


@dataclass(frozen=True)
class Measure:
    """A mean with its 95 % bootstrap interval over rows (Efron & Tibshirani 1993, percentile method).

    The interval holds the middle 95 % of the means of rows that are drawn again from these rows. Of many sets of rows,
    about 95 % have an interval that holds the mean over all rows of their kind; fewer where rows are few.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return (
            f"{self.mean:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}, n = {self.count})"
        )


def measure(values: Sequence[float], weights: Sequence[float] | None = None) -> Measure:
    """Weighted mean of one value a row, with an interval from drawing the rows again and again."""
    if not len(values):
        raise CourseError(
            "There is nothing to average.", "The list of rows is empty.", "Choose some rows."
        )
    v = torch.tensor(values, dtype=torch.float64)
    w = torch.ones_like(v) if weights is None else torch.tensor(weights, dtype=torch.float64)
    generator = torch.Generator().manual_seed(presets.SEED)
    drawn = torch.randint(len(v), (RESAMPLES, len(v)), generator=generator)
    means = (v * w)[drawn].sum(1) / w[drawn].sum(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Measure(((v * w).sum() / w.sum()).item(), low, high, len(v))


def change(
    before: Sequence[float], after: Sequence[float], weights: Sequence[float] | None = None
) -> Measure:
    """Mean of ``after − before``, row by row: a paired comparison. What a row's difficulty adds to both cancels out."""
    return measure([b - a for a, b in zip(before, after, strict=True)], weights)


# ---------------------------------------------------------------------------------------- answering
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
        CourseError: a decoding parameter is out of range, or even one prompt does not fit into memory.
    """
    check_whole("max_new_tokens", max_new_tokens, 1)
    check_whole("at_once", at_once, 1)
    check_whole("num_beams", num_beams, 1)
    check_positive("repetition_penalty", repetition_penalty, "Scores are divided by it.")
    _check_decoding(temperature, top_p, top_k)
    messages = _prompts(prompts)
    asked = [tokens.token_ids(tokenizer, m, add_generation_prompt=True) for m in messages]
    settings = {"max_new_tokens": max_new_tokens, "do_sample": temperature is not None}
    settings |= {"repetition_penalty": repetition_penalty, "num_beams": num_beams}
    if temperature is not None:
        settings |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    # Prompts of similar length together: less padding.
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    answers: dict[int, str] = {}
    torch.manual_seed(seed)
    _inference_mode(model)
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
    one = isinstance(prompts, str) or (prompts and all(isinstance(p, dict) for p in prompts))
    found = []
    for prompt in [prompts] if one else prompts:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        right = isinstance(messages, list) and all(
            isinstance(m, dict) and {"role", "content"} <= set(m) for m in messages
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


def _inference_mode(model) -> None:
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
    _inference_mode(model)
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


# ---------------------------------------------------------------------------------------- measuring
def answer_losses(
    model, tokenizer, rows: "Dataset", *, at_once: int = 8
) -> tuple[list[float], list[int]]:
    """Held-out loss: how surprised the model is by each reference answer.

    Returns:
        For each row, the mean negative log-likelihood of its last answer's tokens (in nats a token), and
        how many tokens that are. The question and earlier turns are read but not counted.
    """
    from helpers.data import to_prompt_completion

    need_rows(rows)
    _inference_mode(model)
    pairs = []
    for row in rows.select_columns(["id", "conversations", "score"]):
        last = to_prompt_completion(type(rows).from_list([row]))[-1]
        whole, read = tokens.learned_ids(tokenizer, last["prompt"], last["completion"])
        pairs.append((read, whole))
    losses: list[float] = []
    for start in range(0, len(pairs), at_once):
        losses += _losses(model, tokenizer, pairs[start : start + at_once])
    return losses, [len(whole) - prompt for prompt, whole in pairs]


def _losses(model, tokenizer, pairs: list[tuple[int, list[int]]]) -> list[float]:
    longest = max(len(whole) for _, whole in pairs)
    ids = torch.full((len(pairs), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for i, (_, whole) in enumerate(pairs):
        ids[i, : len(whole)] = torch.tensor(whole)
        mask[i, : len(whole)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    found = []
    for i, (prompt, whole) in enumerate(pairs):
        # Position t predicts token t + 1.
        predicted = logits[i, prompt - 1 : len(whole) - 1].float()
        loss = torch.nn.functional.cross_entropy(predicted, ids[i, prompt : len(whole)])
        found.append(loss.item())
    return found


def chrf(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF of each answer against its reference, 0 to 100 (Popović 2015; sacrebleu's default settings).

    It counts common letter sequences, so it rewards wording and form, not truth.
    """
    from sacrebleu.metrics import CHRF

    need_texts(answers, "answers")
    need_texts(references, "references")
    if len(answers) != len(references):
        raise CourseError(
            f"There are {len(answers)} answers and {len(references)} references.",
            "Each answer is compared with one reference.",
            "Take answers and references of the same rows.",
        )
    metric = CHRF()
    return [metric.sentence_score(a, [r]).score for a, r in zip(answers, references, strict=True)]


def references(rows: "Dataset") -> list[str]:
    """The last answer of each row.

    Raises:
        CourseError: a row ends with a question, as those of a test set do.
    """
    need_rows(rows)
    for row_id, messages in zip(rows["id"], rows["conversations"], strict=True):
        if messages[-1]["role"] != "assistant":
            raise CourseError(
                f"The conversation {row_id!r:.40} ends with a question.",
                "What the model writes is compared with the answer that follows it.",
                "Take rows that end with an answer, such as those of heldout.json.",
            )
    return [messages[-1]["content"] for messages in rows["conversations"]]


# -------------------------------------------------------------------------------- the homework's files
def write_predictions(
    path: str | Path,
    prompts: Sequence[list[dict]],
    ids: Sequence[str],
    answers: Sequence[str],
    model: str,
) -> Path:
    """Write the homework's ``pred.json``: ``{id: {"input": messages, "output": [answer]}}``.

    Args:
        path: the file; a second one, ``<name>_about.json`` beside it, names the base model.
        prompts, ids, answers: one of each for every row of the test set.
        model: the base model's preset name or hub id. If it is not the homework's, this is said.
    """
    if not len(prompts) == len(ids) == len(answers):
        raise CourseError(
            f"{len(prompts)} prompts, {len(ids)} ids and {len(answers)} answers do not match.",
            "Each row of the test set needs one answer.",
            "Generate the answers again for all prompts.",
        )
    if twice := [row_id for row_id, count in Counter(ids).items() if count > 1]:
        raise CourseError(
            f"{len(twice)} ids stand more than once in the test set, the first of them {twice[0]!r}.",
            "The file has one entry for each id, so an answer would be lost.",
            "Give every row of the test set an id of its own.",
        )
    path = Path(path).absolute()
    content = {
        row_id: {"input": prompt, "output": [answer]}
        for row_id, prompt, answer in zip(ids, prompts, answers, strict=True)
    }
    homework = presets.MODELS["llama-2-7b"]
    right = model in ("llama-2-7b", homework.hub_id)
    note = (
        f"Made with the homework's base model, {homework.hub_id}."
        if right
        else f"Made with {model}, not with the homework's base model {homework.hub_id}: not for handing in."
    )
    workspace.write_json(path, content)
    workspace.write_json(
        path.with_name(f"{path.stem}_about.json"), {"base_model": model, "note": note}
    )
    print(f"{len(answers)} answers in {path.name}. {note}")
    return path


def write_training_config(path: str | Path, record: dict) -> Path:
    """Write the homework's ``training_config.json``, nine settings, from a run's ``run.json``."""
    choice = record["choice"]
    content = {
        "per_device_train_batch_size": record["per_device_train_batch_size"],
        "gradient_accumulation_steps": choice["rows_per_update"]
        // record["per_device_train_batch_size"],
        "warmup_steps": record["warmup_steps"],
        "num_train_epochs": choice["num_train_epochs"],
        "learning_rate": record["learning_rate"],
        "optim": presets.TRAINING["optim"],
        "weight_decay": presets.TRAINING["weight_decay"],
        "lr_scheduler_type": presets.TRAINING["lr_scheduler_type"],
        "seed": presets.TRAINING["seed"],
    }
    return workspace.write_json(Path(path).absolute(), content)
