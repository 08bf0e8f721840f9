"""Child process of `EmbeddedClient`: a server of the embedded model.

    python -m multigrain.llm.clients.embedded_server WEIGHTS MODEL SLOTS

The server reads its key from the first line of standard input and prints its address to standard output. It exits when
standard input ends, which also happens when the parent is killed.
"""

import os
import sys

CONTEXT_TOKENS = 1024
"""Tokens of prompt and answer together, per slot."""


def main(weights: str, model: str, slots: int) -> None:
    """Serve until standard input ends."""
    import xllamacpp

    key = sys.stdin.readline().strip()
    params = xllamacpp.CommonParams()
    params.model.path = weights
    params.model_alias = {model}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.n_parallel = slots
    params.n_ctx = CONTEXT_TOKENS * slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.warmup = False
    params.ui = False
    params.verbosity = -1
    # These two make an answer independent of other requests under way, so a run that was killed and restarted ends with
    # the same candidates. They cost about half the speed.
    params.cache_prompt = False
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    # Destroying the server would wait for the requests under way, whose answers are no longer needed.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
