"""What a learner's state goes through on its way to host memory and back."""

import numpy as np
import pytest
import torch
from igpo_learner_setup import make_batch, make_learner, save_tiny_llama, update

from algorithms.igpo.learner.host_memory import PinnedBuffers, named_tensors
from algorithms.igpo.loss_settings import LossSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def test_a_buffer_is_made_once_and_holds_the_newest_values():
    buffers, parameter = PinnedBuffers(pin=False), torch.nn.Parameter(torch.arange(3.0))
    buffers.move([("w", parameter)], CPU)
    first = parameter.data_ptr()
    parameter.data = parameter.data + 1  # as on a device: other memory
    buffers.move([("w", parameter)], CPU)
    assert parameter.data_ptr() == first and parameter.tolist() == [1.0, 2.0, 3.0]
    parameter.data = torch.zeros(2, 2)
    buffers.move([("w", parameter)], CPU)
    assert parameter.shape == (2, 2), "another shape gets another buffer"


def test_tied_weights_stay_one(llama):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama)
    names = [name for name, _ in named_tensors(model, "m")]
    assert len(set(names)) == len(names) and not any("lm_head" in name for name in names)
    PinnedBuffers(pin=False).move(named_tensors(model, "m"), CPU)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("offload_optimizer", [False, True])
def test_everything_that_a_step_leaves_behind_is_named_once(llama, offload_optimizer):
    """Weights, buffers, reference; of every trained tensor both moments and the count of steps, or none."""
    learner = make_learner(llama, loss=LossSettings(kl_coeff=0.01), offload_optimizer=offload_optimizer)
    update(learner, make_batch())
    named = dict(learner._state_tensors())
    assert len(named) == len(list(learner._state_tensors()))
    model = learner._hugging_face("default_policy").hf
    trained, buffers = len(list(model.parameters())), len(list(model.buffers()))
    moments = 0 if offload_optimizer else 3 * trained
    assert len(named) == 2 * (trained + buffers) + moments
    held = {tensor.data_ptr() for tensor in named.values()}
    assert {p.data_ptr() for p in model.parameters()} <= held


def test_what_has_been_moved_is_learnt_from_all_the_same(llama):
    plain, moved = make_learner(llama), make_learner(llama)
    buffers = PinnedBuffers(pin=False)
    for seed in range(3):
        update(plain, make_batch(seed=seed))
        update(moved, make_batch(seed=seed))
        buffers.move(moved._state_tensors(), CPU)
    for name, array in plain.module["default_policy"].get_state().items():
        np.testing.assert_array_equal(moved.module["default_policy"].get_state()[name], array)


@pytest.mark.parametrize("code, tries", [(0, 2), (2, 1)])
def test_large_buffers_are_pinned_once_and_pinning_that_fails_is_said(monkeypatch, caplog, code, tries):
    pinned = []

    class Cudart:
        def cudaHostRegister(self, pointer, size, flags):  # noqa: N802 (CUDA's name)
            pinned.append(size)
            return code

        def cudaHostUnregister(self, pointer):  # noqa: N802
            return 0

    monkeypatch.setattr(torch.cuda, "cudart", Cudart)
    buffers = PinnedBuffers()
    large, other = torch.zeros(2**18), torch.zeros(2**19)
    for _ in range(2):
        buffers.move([("large", large), ("small", torch.zeros(3)), ("other", other)], CPU)
    assert pinned == [2**20, 2**21][:tries]
    assert ("cannot be pinned (CUDA error 2)" in caplog.text) is bool(code)


def test_what_is_no_buffer_any_more_is_unpinned(monkeypatch):
    """Freed while pinned, memory is lost to the machine and cannot be pinned again at the same address."""
    pinned = {}

    class Cudart:
        def cudaHostRegister(self, pointer, size, flags):  # noqa: N802 (CUDA's name)
            pinned[pointer] = size
            return 0

        def cudaHostUnregister(self, pointer):  # noqa: N802
            del pinned[pointer]
            return 0

    monkeypatch.setattr(torch.cuda, "cudart", Cudart)
    buffers, tensor = PinnedBuffers(), torch.zeros(2**18)
    buffers.move([("a", tensor)], CPU)
    tensor.data = torch.zeros(2**19)
    buffers.move([("a", tensor)], CPU)
    assert pinned == {tensor.data_ptr(): 2**21}, "the buffer of the old shape is unpinned"
    del buffers
    assert not pinned
