"""The GPU's probes, as far as a processor can run them; gpu/ runs them on a GPU."""

import pytest
import torch

from helpers.setup import environment, probes


def test_a_four_bit_product_and_a_16_bit_one_are_right_here():
    assert "multiplies in 4 bits as it should" in probes.four_bit_matmul("cpu")
    assert "float16 products are right" in probes.finite_matmul(torch.float16, "cpu")


def test_a_wrong_product_is_found(monkeypatch):
    import bitsandbytes as bnb

    right = bnb.functional.dequantize_4bit
    monkeypatch.setattr(
        bnb.functional, "dequantize_4bit", lambda *args, **kwargs: 1.05 * right(*args, **kwargs)
    )
    found = probes.attempt("bitsandbytes 4-bit", probes.four_bit_matmul, "cpu")
    assert not found.ok and "off by" in found.detail and "restart the session" in found.fix


def test_a_product_that_overflows_is_found():
    found = probes.attempt("matmul float8", probes.finite_matmul, torch.float8_e5m2, "cpu")
    assert not found.ok and found.detail and "delete the runtime" in found.fix


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_probed_and_the_report_says_which_model_it_will_be():
    report = environment.check(probe=True)
    assert report.probes == () and "SmolLM2-135M" in report.model


def test_a_failed_probe_makes_the_report_wrong_and_shows_the_way_out():
    bad = probes.Probe("Triton kernel", False, "no PTX for sm_75", "use another image")
    report = environment.Report({}, (), probes=(bad,))
    assert not report.ok
    assert str(report) == "[FIX] Triton kernel        no PTX for sm_75  ->  use another image"
