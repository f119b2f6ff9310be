"""What the cells of 01_environment must have produced; their names are this file's globals."""


def machine_facts():
    assert {"Python", "cores", "memory", "GPU", "torch"} <= set(report.machine)


def packages_match():
    assert {row.package for row in report.rows} >= set(main)
    assert all(one.ok for one in report.base)


def two_faults():
    assert not old_trl.ok and not no_bitsandbytes.ok


def magic_first():
    assert [ran for _, ran in outcomes.values()] == [False, False, True]


def unquoted():
    assert as_written == (0, "", {"=4.46.1": "pip install transformers"})
    assert with_quotes == (0, "pip install transformers>=4.46.1", {})


def free_and_pinned():
    assert len(free) > len(pinned) > 0


def floor_allows():
    assert floor.contains("99.0") and not needs["transformers"].contains("99.0")


def tokenizers_range():
    assert not wanted["tokenizers"].contains("0.22.2")
    assert wanted["tokenizers"].contains(environment.version("tokenizers"))


def lock_of_colab():
    assert not set(pins) & set(locks.UNTOUCHED) and locks.proven(lock)


def wheel_for_python():
    assert "cp313" not in built_for and "2.5" not in IMAGES.values()


def loaded_once():
    assert (same_session, fresh) == ("old", "new")


def banner_of_unsloth():
    assert f"Unsloth {environment.version('unsloth')}" in banner.getvalue()


def facts_by_name():
    assert {"Unsloth", "GPU", "bfloat16"} <= set(here)
    assert t4["CUDA capability"] == "7.5" and len(t4) == len(environment.BANNER) - 1


def driver_and_torch():
    assert here.get("Torch", torch.__version__) == torch.__version__


def two_formats():
    assert torch.tensor(70_000.0).half().isinf() and torch.tensor(1.002).bfloat16() == 1


def attention():
    assert torch.allclose(by_hand, sdpa, atol=1e-6)


def exit_code():
    assert code != 0 and not files and went_on


def which_dtype():
    from unsloth import is_bfloat16_supported

    assert (model.dtype == torch.bfloat16) == is_bfloat16_supported()
