"""What the cells of 01_environment must have produced; their names are this file's globals."""


def machine_facts():
    assert {"Python", "cores", "memory", "GPU", "torch"} <= set(report.machine)


def packages_match():
    assert {row.package for row in report.rows} >= set(main)
    assert all(one.ok for one in report.base)
    # A row that differs says how to mend it.
    old_trl = environment.Row("trl", pinned="1.15.0", found="0.8.5")
    no_bitsandbytes = environment.Row("bitsandbytes", pinned="0.50.2", found=None)
    assert not old_trl.ok and not no_bitsandbytes.ok
    said = str(environment.Report({}, (old_trl, no_bitsandbytes))).splitlines()
    assert len(said) == 2 and all(line.startswith("[FIX] ") for line in said)
    assert all("environment.install()" in line for line in said)


def tokenizers_range():
    assert not wanted.contains("0.22.2")
    assert wanted.contains(environment.version("tokenizers"))


def lock_of_colab():
    assert not set(pins) & set(locks.UNTOUCHED) and locks.proven(lock)


def banner_of_unsloth():
    assert f"Unsloth {environment.version('unsloth')}" in banner


def facts_by_name():
    assert {"Unsloth", "GPU", "bfloat16"} <= set(here)
    assert t4["CUDA capability"] == "7.5" and len(t4) == len(environment.BANNER) - 1
    assert metadata.metadata("unsloth")["License-Expression"] == "Apache-2.0"


def driver_and_torch():
    assert here.get("Torch", torch.__version__) == torch.__version__
    # Xformers and FlashAttention 2 may be absent: PyTorch's own attention computes the same formula.
    q, k, v = torch.randn(3, 1, 5, 8)
    earlier = torch.ones(5, 5, dtype=torch.bool).tril()
    match = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(~earlier, float("-inf"))
    sdpa = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(match.softmax(dim=-1) @ v, sdpa, atol=1e-6)


def loaded_once():
    assert (same_session, fresh) == ("old", "new")


def which_dtype():
    from unsloth import is_bfloat16_supported

    assert (model.dtype == torch.bfloat16) == is_bfloat16_supported()


def free_and_pinned():
    assert len(free) > len(pinned) > 0
    # What the free ones may become: a floor allows what today's Unsloth refuses.
    (floor,) = [Requirement(word).specifier for word in free if ">=" in word]
    unsloth = {Requirement(n).name: Requirement(n).specifier for n in metadata.requires("unsloth")}
    assert floor.contains("99.0") and not unsloth["transformers"].contains("99.0")
    # What became of the pinned ones: that xformers asks for PyTorch 2.5, which no image has. (That it has no file for
    # Python 3.13 is held by tests/unit/test_drift.py.)
    assert "xformers==0.0.29" in pinned
    images = locks.images().values()
    assert not [one for one in images if one["packages"]["torch"].startswith("2.5.")]
    assert next(iter(images))["python"].startswith("3.13.")


def magic_first():
    assert [ran for _, ran in outcomes.values()] == [False, False, True, True]


def unquoted():
    assert results == [
        (True, "", {"=4.46.1": "pip install transformers"}),
        (True, "pip install transformers>=4.46.1", {}),
        (False, "", {}),
    ]
