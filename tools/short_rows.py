"""What the homework's default sort key teaches: the figures in notebook 04's "best lesson", measured again.

python tools/short_rows.py     with the small model: 2 minutes on two CPU cores

Trains this machine's model on the 100 shortest conversations of the course's pool, all else as in `Choice`. The loss is
that of the held-out rows for looking; their questions and the test set's are answered.
"""

import statistics

import extremes  # Unsloth first

from helpers import answering, data, homework, selection
from helpers.choice import Choice


def main() -> None:
    rows = selection.select(data.load_conversations(data.OUR_POOL), homework.simple_key)
    heldout = data.heldout("looking")
    trainer, tokenizer = extremes.trained(Choice(), rows)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"training loss: first step {losses[0]:.2f}, last {losses[-1]:.2f}")
    before, after = extremes.heldout_loss(trainer.model, tokenizer, heldout)
    print(f"held-out loss: {before:.2f} -> {after:.2f}")
    test_set = data.load_conversations(data.OUR_TEST_SET)
    questions = [*data.questions(heldout), *data.questions(test_set)]
    answers = answering.generate(trainer.model, tokenizer, questions, max_new_tokens=100)
    words = [len(answer.split()) for answer in answers]
    print(
        f"{len(words)} answers: {sum(n <= 4 for n in words)} of at most four words, "
        f"median {statistics.median(words):g} words"
    )


if __name__ == "__main__":
    main()
