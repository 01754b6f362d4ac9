import threading

import pytest
import tiny_encoders
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from torch.utils._python_dispatch import TorchDispatchMode

from ser import training
from ser.cpu import float32_products
from ser.encoders import SpeechEncoder, WhisperEncoder

ZEN = {"cpu_name": "AMD EPYC", "avx512_f": True, "amx_bf16": False}
PROCESSORS = {
    "AMD with AVX-512": (ZEN, "bf16"),
    "AMD without": (ZEN | {"avx512_f": False}, "ieee"),
    "one whose AMX would round": (ZEN | {"amx_bf16": True}, "ieee"),
    "Intel": (ZEN | {"cpu_name": "Intel(R) Xeon(R)"}, "ieee"),
    "unknown": ({}, "ieee"),
}


def setting():
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_other_library_multiplies_only_where_it_is_faster_and_exact(processor, monkeypatch):
    capabilities, expected = PROCESSORS[processor]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with float32_products():
        assert setting() == expected
        with float32_products(1000):  # such as a step of a small recurrent layer
            assert setting() == "ieee"
        assert setting() == expected


def test_what_was_set_before_returns_also_after_an_error():
    before = setting(), torch.get_float32_matmul_precision()
    with pytest.raises(ValueError), float32_products():
        raise ValueError
    assert (setting(), torch.get_float32_matmul_precision()) == before  # torch refuses the second where both are mixed


def test_nothing_is_set_for_small_networks_and_where_a_gpu_multiplies(monkeypatch, configure, few_figures):
    """Lightning asks torch for its precision on each GPU, which is an error while the other library is chosen."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: ZEN)
    with float32_products(), pytest.raises(RuntimeError):
        torch.get_float32_matmul_precision()
    with float32_products(on_cpu=False):
        assert torch.get_float32_matmul_precision() == "highest"
    fit, seen = training.fit_by_epochs, []

    def noting(*arguments):
        seen.append(setting())
        fit(*arguments)

    monkeypatch.setattr(training, "fit_by_epochs", noting)
    training.run(configure("test=false"))
    monkeypatch.setattr("ser.cpu._LARGE", 0)
    training.run(configure("test=false"))
    monkeypatch.setattr(training, "CPUAccelerator", CUDAAccelerator)  # as if it trained on another device
    training.run(configure("test=false"))
    assert seen == ["none", "bf16", "none"]  # a small network, a large one, one on another device


def test_products_have_the_digits_of_float32_on_this_machine():
    torch.manual_seed(1)
    left, right = torch.randn(300, 400), torch.randn(400, 500)
    exact = left.double() @ right.double()
    with float32_products():
        error = ((left @ right).double() - exact).abs().max() / exact.abs().mean()
    rounded = ((left.bfloat16() @ right.bfloat16()).double() - exact).abs().max() / exact.abs().mean()
    assert error < 1e-5 and rounded > 1e-3


def test_what_was_set_before_returns_after_threads_that_overlap():
    before, (inside, left) = setting(), (threading.Event(), threading.Event())

    def first():
        with float32_products():
            inside.set()
            left.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(60)
    with float32_products():
        left.set()
        thread.join()
    assert setting() == before


class Products(TorchDispatchMode):
    """Counts plain products, and notes how often a batch of them has one factor for all: oneDNN copies it each time."""

    def __init__(self):
        super().__init__()
        self.plain, self.copies = 0, [0]

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default):
            weight = arguments[-1]
            self.copies.append(len(weight) if weight.stride(0) == 0 else 0)
        self.plain += function is torch.ops.aten.addmm.default
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["hubert", "wavlm", "wav2vec2", "whisper"])
def test_no_encoder_multiplies_a_batch_by_one_weight_per_frame(name, large, tmp_path):
    save = getattr(tiny_encoders, f"save_tiny_{name}")
    folder = str(save(tmp_path / name) if name == "whisper" else save(tmp_path / name, large=large))
    encoder = WhisperEncoder(folder) if name == "whisper" else SpeechEncoder(folder)
    with Products() as seen, torch.no_grad():  # inference mode shows layers, not their products
        encoder(0.1 * torch.randn(3, 16_000), torch.tensor([16_000, 12_000, 9_000]))
    assert seen.plain and max(seen.copies) <= 3 * 2  # utterances and heads, not frames
