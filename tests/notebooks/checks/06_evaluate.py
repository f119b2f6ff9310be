"""What the cells of 06_evaluate must have produced; their names are this file's globals."""


def the_run():
    _unsloth_first()
    assert run.record["status"] == "finished"


def same_numbers():
    assert numbers == run.record["trainable_parameters"]


def first_word():
    assert not torch.equal(logits_off, logits_on)


def adapter_config():
    assert config["r"] == run.record["choice"]["r"]


def heldout_loss():
    assert seen == []


def loss_with_interval():
    for mean in (loss_before, loss_after, loss_change):
        assert mean.low <= mean.mean <= mean.high and mean.count == len(heldout)
    assert abs(loss_after.mean - loss_before.mean - loss_change.mean) < 1e-6


def house_style():
    assert loss_change.high < 0 or share < 0.5


def chrf_scores():
    assert len(answers_after) == len(heldout)
    assert 0 <= min(scores_after) <= max(scores_after) <= 100


def labels_in_answers():
    assert all(labels(reference) for reference in references)


def before_and_after():
    pairs = [(loss_before, loss_after), (chrf_before, chrf_after)]
    for axes, pair in zip(_figure().axes, pairs, strict=True):
        means = [bar.lines[0].get_ydata()[0] for bar in axes.containers]
        assert means == [measured.mean for measured in pair]


def side_by_side():
    assert any(example["before"] != example["after"] for example in examples)


def one_call():
    assert 1 <= len(new) <= length


def candidate_table():
    top = {name: float(probabilities[0]) for name, (_, probabilities) in table.items()}
    assert top["temperature 0.3"] > top["temperature 1"] > top["temperature 1.5"]
    assert len(table["temperature 1, top_k 5"][0]) <= 5


def samples_of_one_question():
    assert len(set(samples["greedy"])) == 1


def greedy_or_hot():
    assert samples["greedy"][0] != samples["temperature 1.5"][0]


def test_set_spellings():
    assert not respelt.exists()


def homework_files():
    whole = data.load_conversations(data.test_set_path())
    assert len(prompts) == len(test_set) == min(len(whole), size.prompts)
    assert list(written) == test_set["id"]
    assert all(len(entry["output"]) == 1 for entry in written.values())


def keep_the_results():
    kept = workspace.read_json(run.folder / "results.json")
    assert kept == json.loads(json.dumps(results))
    assert kept["run"] == run.folder.name and len(kept["examples"]) == 2
    for name in ("loss", "chrf"):
        before, after, change = (
            kept[f"{name}_{part}"]["mean"] for part in ("before", "after", "change")
        )
        assert abs(after - before - change) < 1e-6


def preamble_cost():
    assert counts == tokens[: len(probe)] and min(asked_before + asked_after) > 0


def asked_or_trained():
    assert len(obeyed) == len(probe)
