"""vLLM behind the engine interface. Importing this module takes about 25 s on two cores."""

from __future__ import annotations

import os
from typing import Any

# vLLM and torch read these when they are imported. They keep the engine inside this process (it lives and
# dies with its actor), let several engines share a CPU host instead of each binding to the first cores, and
# switch compilation off on CPUs (16-27 s at the first batch, and no gain on models small enough for a CPU).
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.inputs import TokensPrompt
from vllm.logprobs import FlatLogprobs
from vllm.sampling_params import RequestOutputKind

from trainables.config import Backend, Dtype, EngineConfig, resolve_dtype
from trainables.learner.tokens import Float32
from trainables.rollouts.engine import Completions, DrawRequest, Fingerprint, eos_token_ids
from trainables.weight_sync.publish import Manifest, Rendezvous
from trainables.weight_sync.weights import Weights, checksum, to_numpy

GLOO_WORKER = "trainables.weight_sync.gloo_transfer.GlooWorker"


class VllmEngine:
    """A vLLM engine in this process."""

    def __init__(
        self, model: str, config: EngineConfig, dtype: Dtype = "auto", backend: Backend | None = None
    ) -> None:
        self._stop = eos_token_ids(model)
        self._version = -1
        on_gpu = torch.cuda.is_available()
        memory = (
            {"gpu_memory_utilization": config.gpu_memory_utilization}
            if on_gpu
            else {"kv_cache_memory_bytes": config.kv_cache_mb * 2**20}
        )
        self._llm = LLM(
            model=model,
            load_format="safetensors",  # any other format is a pickle
            dtype=resolve_dtype(dtype, on_gpu=on_gpu),
            tensor_parallel_size=config.tensor_parallel,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            enforce_eager=not on_gpu,
            # Raw log-probs, vLLM's default, ignore the temperature: importance ratios would use another
            # distribution than the one that was sampled.
            logprobs_mode="processed_logprobs",
            # A model's own generation_config may set top-p or a repetition penalty, which is off-policy.
            generation_config="vllm",
            skip_tokenizer_init=True,
            enable_prefix_caching=True,
            disable_log_stats=True,
            seed=0,
            weight_transfer_config=WeightTransferConfig(backend) if backend else None,
            # Every worker process imports it, which registers the backend `gloo` with vLLM.
            worker_extension_cls=GLOO_WORKER if backend == "gloo" else "",
            **memory,
        )

    def draw(self, request: DrawRequest) -> Completions:
        """Sample every rollout of the request, batched continuously."""
        params = [
            SamplingParams(
                temperature=float(request.temperature_R[r]),
                seed=int(request.seed_R[r]),
                max_tokens=int(request.max_tokens_R[r]),
                min_tokens=0 if request.min_tokens_R is None else int(request.min_tokens_R[r]),
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                stop_token_ids=self._stop,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,  # made for this request alone; vLLM's deep copies took 6% of a draw
            )
            for r in range(request.rollouts)
        ]
        prompts = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in request.prompts]
        outputs = [o.outputs[0] for o in self._llm.generate(prompts, params, use_tqdm=False)]
        return Completions(
            length_R=np.array([len(o.token_ids) for o in outputs], dtype=np.int32),
            token_M=np.concatenate([np.asarray(o.token_ids, dtype=np.int32) for o in outputs]),
            logprob_M=np.concatenate([_chosen(o.logprobs) for o in outputs]),
            finished_R=np.array([o.finish_reason == "stop" for o in outputs], dtype=np.bool_),
            version=self._version,
        )

    def reset(self) -> None:
        """Zero the KV cache and forget cached prefixes."""
        # A trial that diverged leaves NaN in the KV cache, and masked attention over a reused block computes
        # 0 x NaN: without this, every later trial on the slot would read NaN.
        self._llm.collective_rpc(_zero_kv_cache)
        self._llm.reset_prefix_cache()

    def load(self, weights: Weights, version: int) -> None:
        """Take new weights, and forget prefixes cached under the old ones."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(weights.tensors())})
        # vLLM keeps cached prefixes across a reload; they would be silently stale.
        self._llm.reset_prefix_cache()
        self._version = version

    def join(self, rendezvous: Rendezvous, first_rank: int) -> None:
        """Join the learner's group for weight broadcasts, after leaving any old one."""
        info: dict[str, Any] = {
            "master_address": rendezvous.host,
            "master_port": rendezvous.port,
            "rank_offset": first_rank,
            "world_size": rendezvous.world_size,
            "packed": True,
            "packed_buffer_size_bytes": rendezvous.bucket_bytes,
        }
        if rendezvous.backend == "gloo":
            info["timeout_s"] = rendezvous.timeout_s
        self._llm.collective_rpc("shutdown_weight_transfer_engine")
        self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": info})

    def receive(self, manifest: Manifest, version: int) -> None:
        """Take the weights that the learner broadcasts, and forget prefixes cached under the old ones."""
        names, dtypes, shapes = zip(*manifest, strict=True)
        info = {"names": list(names), "dtype_names": list(dtypes), "shapes": list(shapes)}
        self._llm.collective_rpc("start_weight_update")
        self._llm.collective_rpc("update_weights", kwargs={"update_info": info})
        self._llm.collective_rpc("finish_weight_update")
        self._llm.reset_prefix_cache()
        self._version = version

    def fingerprint(self) -> Fingerprint:
        """Return checksums and cache state of all tensor-parallel workers as one."""
        marks = self._llm.collective_rpc(_fingerprint)
        return Fingerprint(" ".join(mark.weights for mark in marks), all(mark.cache_empty for mark in marks))

    def close(self) -> None:
        """Shut the engine down."""
        self._llm.llm_engine.engine_core.shutdown()


def _zero_kv_cache(worker: Any) -> None:
    for cache in worker.model_runner.kv_caches:
        cache.zero_()


def _fingerprint(worker: Any) -> Fingerprint:
    runner = worker.model_runner
    named = ((name, to_numpy(parameter.detach())) for name, parameter in runner.model.named_parameters())
    return Fingerprint(checksum(named), not any(bool(cache.any()) for cache in runner.kv_caches))


def _chosen(logprobs: FlatLogprobs) -> Float32:
    """Pick the log-prob of each sampled token: the first entry of its position."""
    flat = np.asarray(logprobs.logprobs, dtype=np.float32)
    chosen: Float32 = flat[np.asarray(logprobs.start_indices)]
    return chosen
