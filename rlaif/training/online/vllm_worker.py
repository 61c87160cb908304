"""What is added to vLLM's worker, in its own process, when vLLM in the run is given all weights of the policy."""

from typing import Any


class TakesPolicy:
    """Mixed into vLLM's worker (its argument worker_extension_cls)."""

    model_runner: Any

    def take_policy(self, folder: str) -> None:
        """Reads the weights in a folder into the model.

        On the CPU vLLM multiplies by a copy of a head that it made as it started, and where head and embeddings are one, its
        reload_weights (0.32) renews the embeddings and not that copy.
        """
        self.reload_weights(weights_path=folder)  # type: ignore[attr-defined] # the worker's
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
