"""A random Llama of two layers in float32, and what an engine that holds it should say."""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = 200


def random_llama(**changes):
    """The same weights at every call; `changes` are settings of `LlamaConfig`."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,  # 32 wide: vLLM's attention takes no 16 on CPUs without AVX512
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()


def pushed_weights(model):
    """The tensors of `model` as a learner pushes them."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


@torch.no_grad()
def plain_logp(model, context, ids):
    """The log-probability of each of `ids` after `context` and those before it, by one forward."""
    logp = model(torch.tensor([context + ids])).logits.float().log_softmax(-1)[0]
    return np.array([logp[len(context) + k - 1, token].item() for k, token in enumerate(ids)])


def random_contexts(count, seed=0, shortest=20, longest=150):
    """Token ids without the first six, which tests use as stop tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(6, VOCAB, size=int(rng.integers(shortest, longest))).tolist() for _ in range(count)]


def results_of(engine, requests=()):
    """Submits `requests` and steps the engine until it is idle. Returns {request id: result}."""
    for request in requests:
        engine.submit(request)
    results = {}
    while engine.is_busy:
        results |= {result.request_id: result for result in engine.step()}
    return results
