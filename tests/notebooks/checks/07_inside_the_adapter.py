"""What the cells of 07_inside_the_adapter must have produced; their names are this file's globals."""


def _drawn(axes):
    """Label of each line, and its points."""
    return {
        line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.lines
    }


def _map(axes):
    """The numbers of a heat map, NaN where it is empty."""
    import numpy as np

    return np.ma.filled(axes.images[0].get_array(), np.nan)


def _same(shown, grid):
    """Equal, also where there is no number."""
    import numpy as np

    return np.array_equal(shown, np.array(grid), equal_nan=True)


def the_run():
    _unsloth_first()
    assert run.record["status"] == "finished"
    assert (r, alpha) == (run.record["choice"]["r"], run.record["choice"]["lora_alpha"])
    divisor = r**0.5 if choice.use_rslora else r
    assert abs(scale * divisor - alpha) < 1e-9 * alpha


def factors_of_the_run():
    assert first.a.shape[0] == first.b.shape[1] == r
    # W, B and A are drawn.
    assert {"W", "B", "A"} <= {text.get_text() for text in _figure().axes[0].texts}


def base_and_yours():
    assert len(heldout) == size.looking
    assert base_loss > 0 and your_loss > 0 and your_loss != base_loss


def turn_alpha():
    by_factor = dict(losses)
    assert abs(by_factor[0] - base_loss) < 0.01 and abs(by_factor[1] - your_loss) < 0.01


def alpha_dial():
    assert dial.losses == losses and dial.trained == {}
    assert len(answers) == len(losses) and losses[dial.slider.index][0] == 1
    assert f"held-out loss {losses[3][1]:.2f}" in dial.text()


def quick_and_slow():
    assert torch.allclose(quick, slow[:r], atol=1e-4 * float(slow[0]))
    assert max(slow[r:].tolist(), default=0) < 1e-4 * float(slow[0])


def count_directions():
    assert set(directions) == set(yours)
    assert min(directions.values()) >= 0 and 1 <= max(directions.values()) <= r
    assert _same(_map(_figure().axes[0]), adapter.grid(directions))


def cut_to_rank():
    # At full rank nothing is cut off.
    assert abs(dict(cut)[r] - your_loss) < 0.01
    assert {rank for rank, _ in cut} >= {1, r}
    assert _drawn(_figure().axes[0]) == curve and curve["your adapter, cut"] == cut
    assert {loss for _, loss in curve["base model"]} == {base_loss}


def change_beside_weight():
    assert set(changes) == set(yours)
    assert 0 <= changes[smallest] <= changes[largest] == max(changes.values())
    assert changes[largest] > 0
    assert _same(_map(_figure().axes[0]), adapter.grid(changes))


def merge_by_hand():
    assert 0 < worst < 1e-5


def rounding_errors():
    assert weight.shape == change.shape == wanted.shape
    errors = [float((kept - wanted).norm()) for kept in stored.values()]
    four_bits, bfloat16, float16 = errors
    assert four_bits > bfloat16 > float16 > 0


def merge_in_4_bits():
    assert merged_loss > 0
    # The weights are back, and so is the adapter.
    assert abs(heldout_loss() - your_loss) < 0.01


def how_long():
    assert trainings == 2 + 2 * len([rank for rank in presets.size().ranks if rank < r])
    assert minutes == run.record["minutes"] > 0


def train_the_relatives():
    assert list(conversations["id"]) == run.record["ids"]
    assert set(same_scale) == set(same_alpha) == set(ranks)
    plain, own = {"use_rslora": False}, choice.to_dict()
    for rank in ranks:
        lower = own | plain | {"r": rank}
        assert same_scale[rank].record["choice"] == lower | {"lora_alpha": scale * rank}
        assert same_alpha[rank].record["choice"] == lower | {"lora_alpha": scale * r}
    assert louder.record["choice"] == own | {"lora_alpha": 4 * alpha}
    assert shuffled.record["choice"] == own and shuffled.record["data"] != run.record["data"]
    assert shuffled.record["trainable_parameters"] == run.record["trainable_parameters"]
    # Relatives do not take the place of the student's own.
    assert runs.latest().folder.name == run.folder.name


def dial_beside_trained():
    assert beside.losses == losses and beside.trained == {factors[-1]: louder_loss}
    curve, square = _figure().axes[0].lines
    assert list(zip(*curve.get_data(), strict=True)) == losses
    assert list(zip(*square.get_data(), strict=True)) == [(4, louder_loss)]
    # The model holds the louder adapter.
    assert abs(adapter.layers(model)[name].scaling["default"] - 4 * scale) < 1e-6 * scale
    assert louder_loss > 0


def count_of_shuffled():
    for counts in counted.values():
        assert set(counts) == set(yours)
        assert min(counts.values()) >= 0 and 1 <= max(counts.values()) <= r
    # Behind the maps' axes stand those of the colour bar.
    maps = _figure().axes[: len(grids)]
    assert [axes.get_title() for axes in maps] == list(grids)
    assert all(_same(_map(axes), grids[axes.get_title()]) for axes in maps)


def share_by_directions():
    assert _drawn(_figure().axes[0]) == shares
    for line in shares.values():
        values = [share for _, share in line]
        assert len(values) <= r and 0 < values[-1] < 1 + 1e-6
        # Each direction adds to the share, but for rounding.
        assert all(b > a - 1e-6 for a, b in zip([0, *values], values, strict=False))


def loss_of_shuffled():
    assert noise_loss > 0 and noise_loss not in (base_loss, your_loss)


def cut_or_trained():
    assert [list(dict(line)) for line in list(lines.values())[1:]] == [[*ranks, r]] * 2
    assert all(loss > 0 for line in lines.values() for _, loss in line)


def rank_curve():
    assert _drawn(_figure().axes[0]) == lines
    assert all(line[-1][0] == r for line in lines.values())


def minus_alpha():
    assert minus_loss > your_loss


def without_one_part():
    assert list(without) == list(parts) and min(without.values()) > 0
    for part, names in parts.items():
        # A part that was not trained is not missed.
        assert without[part] != your_loss or not any(n.endswith(names) for n in yours)
    together = sum(f.a.numel() + f.b.numel() for f in yours.values())
    assert together == run.record["trainable_parameters"]
