"""What extreme settings do to a training: the figures of helpers/cautions.py, measured again.

python tools/extremes.py                       every setting below, one line each
python tools/extremes.py lora_alpha=16 r=1     one training of your own

Each trains this machine's model on the course's 100 conversations, all else as in `Choice`, and measures the loss on the
held-out rows that are for looking, since choices are made by it. With the small model: 20 seconds each on an H100,
minutes on a processor.
"""

import ast
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from helpers import adapting, models, training  # isort: skip  (Unsloth first)

from helpers import data, evaluation, selection
from helpers.choice import Choice

EXTREMES = [
    {},
    *({"learning_rate": rate} for rate in (2e-5, 2e-4, 6e-3, 2e-2, 2e-1, 2)),
    *({"lora_alpha": alpha} for alpha in (1e-4, 0.016, 0.16, 1, 64, 256, 1024, 1e6)),
    *({"num_train_epochs": epochs} for epochs in (8, 15)),
    *({"lora_dropout": share} for share in (0.1, 0.5, 0.9)),
    *({"r": r} for r in (1, 4, 64)),
    *({"r": r, "lora_alpha": r} for r in (1, 4, 64)),
]


def trained(choice: Choice, rows) -> tuple:
    """The trainer of one training, finished, and its tokenizer; nothing is kept on disk."""
    model, tokenizer = models.load(max_seq_length=choice.max_length)
    model = adapting.add_adapter(model, choice)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.build_trainer(model, tokenizer, rows, choice, Path(folder))
        trainer.args.save_strategy = "no"
        trainer.train()
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return trainer, tokenizer


def heldout_loss(model, tokenizer, heldout) -> tuple[float, float]:
    """Mean held-out loss without and with the adapter, in nats a token."""
    after = mean_loss(model, tokenizer, heldout)
    with model.disable_adapter():
        return mean_loss(model, tokenizer, heldout), after


def mean_loss(model, tokenizer, rows) -> float:
    losses, tokens = evaluation.answer_losses(model, tokenizer, rows)
    return evaluation.measure(losses, tokens).mean


def main() -> None:
    given = dict(setting.split("=", 1) for setting in sys.argv[1:])
    own = {name: ast.literal_eval(value) for name, value in given.items()}
    rows = selection.load_selection()
    heldout = data.heldout("looking")
    for changes in [own] if own else EXTREMES:
        trainer, tokenizer = trained(Choice(**changes), rows)
        before, after = heldout_loss(trainer.model, tokenizer, heldout)
        print(
            f"{changes or 'as the homework'}: held-out loss {before:.3f} -> {after:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
