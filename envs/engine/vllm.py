"""The rollout engine on vLLM, in this process: its step loop batches over turns and rollouts."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

from envs.engine.accelerator import check_device, sees_gpu
from envs.engine.base import NO_WEIGHTS, EngineSettings, Generate, Generated, ScoreAnswer, Scored
from envs.engine.vllm_arguments import make
from envs.engine.vllm_outputs import read_generated, read_score
from envs.loading import keep_loaded, without_collecting


def import_vllm(dtype: Literal["float32", "bfloat16"]) -> Any:
    """Imports vLLM as an engine of `dtype` needs it. Returns its class `LLM`."""
    # The engine must live in this process: plain calls, no pickling of weights. Read when vllm is imported.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Sampling is over the whole vocabulary, where this kernel of FlashInfer's has nothing to do; only its
    # import and its compilation would take time.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    # oneDNN keeps a primitive of about 0.3 MiB for each new shape of a product on a CPU. Its own 1,024 take
    # 240 MiB, and as many again are lost to gaps in the heap when they give way to others.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if dtype == "float32":
        # Else Triton's attention multiplies with 10 bits of mantissa on GPUs, and the learner with 23.
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    _mend_llvmlite()
    is_first = "vllm" not in sys.modules
    with without_collecting():
        from vllm import LLM
    if is_first:
        keep_loaded()  # an engine's start asks for whole collections
    return LLM


class VLLMEngine:
    """A vLLM engine for one policy. It starts without weights: call `load_weights` first.

    `envs.engine.adapters.AdapterServer` extends it to several policies.

    Args:
        model_path: Hugging Face folder.
        settings: engine settings.
        max_model_len: longest context plus decision, in tokens.
        dtype: "float32" or "bfloat16".
        seed: seed of the engine (requests carry their own).
        reads_text: whether to load the tokenizer, which requests with stop strings need.
        trust_remote_code: whether a model may run code that its repository ships.

    Raises:
        InputError: the engine cannot start here (`check_device`).
    """

    def __init__(
        self,
        model_path: str,
        settings: EngineSettings,
        *,
        max_model_len: int,
        dtype: Literal["float32", "bfloat16"],
        seed: int = 0,
        reads_text: bool = False,
        trust_remote_code: bool = False,
    ):
        check_device(settings)
        LLM = import_vllm(dtype)  # noqa: N806 (a class)
        on_cpu = not sees_gpu()
        self.weights_version = NO_WEIGHTS
        self.transfer_group: str | None = None
        """Name of the NCCL group that sends weights; None: weights come by `load_weights` only."""
        self._scores: dict[str, tuple[ScoreAnswer, bool]] = {}
        """Running scores by request id, and whether each may read the prefix cache."""
        shares_gpu = settings.placement == "colocated"
        self._llm = make(
            LLM,
            settings.vllm,
            model=model_path,
            **self._weights_arguments(on_cpu=on_cpu, trust_remote_code=trust_remote_code),
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            seed=seed,
            max_model_len=max_model_len,
            max_num_seqs=settings.max_num_seqs,
            block_size=settings.block_size,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            tensor_parallel_size=settings.tensor_parallel_size,
            # In a placement group, as under Tune, vLLM would ask Ray for GPUs that this process has already.
            distributed_executor_backend="mp" if settings.tensor_parallel_size > 1 else None,
            enforce_eager=on_cpu if settings.enforce_eager is None else settings.enforce_eager,
            enable_sleep_mode=shares_gpu and not on_cpu,
            enable_prefix_caching=True,
            skip_tokenizer_init=not reads_text,
            disable_log_stats=True,
            logprobs_mode="raw_logprobs",
            generation_config="vllm",
            # Where no size is given vLLM measures what is free, and fails where another process gives memory
            # back meanwhile.
            kv_cache_memory_bytes=settings.cache_bytes(on_cpu=on_cpu),
            # A seeded request that is prefilled in parts rewinds its generator, which CPU generators cannot
            # do.
            enable_chunked_prefill=False if on_cpu else None,
            max_num_batched_tokens=max(8192, max_model_len) if on_cpu else None,
            weight_transfer_config={"backend": "nccl"} if settings.weight_transfer == "nccl" else None,
        )
        self._engine = self._llm.llm_engine
        if shares_gpu:
            self.sleep()  # the learner is built next

    def _weights_arguments(self, *, on_cpu: bool, trust_remote_code: bool) -> dict[str, Any]:
        """vLLM's arguments for where the weights come from."""
        return {
            # The weights come from the learner, before the first request: nothing is read from disk twice.
            "load_format": "dummy",
            # A CPU engine repacks the output head, so reloading tied embeddings would keep the old head.
            "hf_overrides": {"tie_word_embeddings": False} if on_cpu else None,
        }

    def submit(self, request: Generate | ScoreAnswer) -> None:
        if self.weights_version == NO_WEIGHTS:
            raise RuntimeError("the engine has no weights yet: push the learner's before sampling")
        if isinstance(request, Generate):
            self._submit_generate(request)
        else:
            self._submit_score(request, read_cache=True)

    def step(self) -> list[Generated | Scored]:
        finished = []
        for output in self._engine.step():
            if not output.finished:
                continue
            if output.request_id not in self._scores:
                finished.append(read_generated(output))
                continue
            request, read_cache = self._scores.pop(output.request_id)
            score = read_score(request, output.prompt_logprobs, output.num_cached_tokens or 0)
            if score is not None:
                finished.append(Scored(request.request_id, score))
            elif read_cache:
                self._submit_score(request, read_cache=False)
            else:
                raise RuntimeError(
                    "vLLM returned log-probs of other tokens than it was asked to score: request "
                    f"{request.request_id}"
                )
        return finished

    @property
    def stepped(self) -> object:
        return self

    @property
    def is_busy(self) -> bool:
        return self._engine.has_unfinished_requests()

    def load_weights(self, tensors: dict[str, Any], version: int) -> None:
        if "model.embed_tokens.weight" in tensors and "lm_head.weight" not in tensors:
            tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
        is_asleep = self._engine.is_sleeping()
        if is_asleep:
            self._llm.wake_up(tags=["weights"])
        if not sees_gpu():
            self._llm.apply_model(_pack_experts_again)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(tensors.items())})
        if is_asleep:  # only now, because the incoming weights took memory too
            self._llm.wake_up(tags=["kv_cache"])
        self._hold(version)

    def _hold(self, version: int) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache after a weight load: requests were still running")
        self.weights_version = version

    # This engine's side of `weight_transfer: nccl`. The learner's side (algorithms.igpo.weights.nccl) calls
    # these methods in this order.

    def init_weight_transfer_engine(self, init_info: dict[str, Any], group: str) -> None:
        """Joins the group called `group`, and leaves the previous one."""
        self.transfer_group = None
        self._llm.shutdown_weight_transfer_engine()
        self._llm.init_weight_transfer_engine({"init_info": init_info})
        self.transfer_group = group

    def start_weight_update(self) -> None:
        self.weights_version = NO_WEIGHTS
        self._llm.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, version: int) -> None:
        self._llm.finish_weight_update()
        self._hold(version)

    def sleep(self) -> None:
        if self.is_busy:
            raise RuntimeError("the engine was put to sleep while requests were running")
        self._llm.sleep(level=2)  # a CPU worker ignores it
        self.weights_version = NO_WEIGHTS

    def _submit_generate(self, request: Generate) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=request.temperature,
            seed=request.seed if request.temperature > 0 else None,
            max_tokens=request.max_tokens,
            stop_token_ids=request.stop_token_ids,
            stop=request.stop_strings,
            include_stop_str_in_output=bool(request.stop_strings),
            ignore_eos=True,
            logprobs=0,
            flat_logprobs=True,
            detokenize=bool(request.stop_strings),
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )
        self._add(request.request_id, request.context_ids, params)

    def _submit_score(self, request: ScoreAnswer, *, read_cache: bool) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            skip_reading_prefix_cache=not read_cache,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )
        self._scores[request.request_id] = request, read_cache
        self._add(request.request_id, request.context_ids + request.suffix_ids, params)

    def _add(self, request_id: str, ids: list[int], params: Any, adapter: Any = None) -> None:
        from vllm.inputs import tokens_input

        self._engine.add_request(request_id, tokens_input(ids), params, lora_request=adapter)


def _pack_experts_again(model: Any) -> None:
    """Lets vLLM pack the experts of a mixture in the next reload too.

    A CPU's kernel takes them packed, and vLLM (0.32, `unquantized_fused_moe_method.py`) packs them only while
    a layer has no kernel yet.
    """
    for layer in model.modules():
        method: Any = getattr(layer, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def _mend_llvmlite() -> None:
    """Lets vLLM start where numba is loaded already (bm25s loads it).

    To replace Triton kernels (vllm/triton_utils/dispatcher.py, 0.32 on CPU), vLLM reads `vars` of every
    object in every module. llvmlite's library handle has no `__dict__`, but returns a made-up C function for
    any name, also for that one.
    """
    ffi: Any = sys.modules.get("llvmlite.binding.ffi")
    if ffi is None or not hasattr(ffi.lib, "__dict__"):
        return
    make_up = type(ffi.lib).__getattr__

    def getattr_but_dict(self, name: str):
        if name == "__dict__":
            raise AttributeError(name)
        return make_up(self, name)

    type(ffi.lib).__getattr__ = getattr_but_dict
