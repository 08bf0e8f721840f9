"""curator: an `LLM` with a response format, its rate limits off, resuming from its own cache.

    python curator_engine.py PROMPTS OUTCOME URL CONCURRENCY

Its tokenizer is read from litellm's copy, so nothing is downloaded. `require_all_responses` is off, because failed
inputs must not cost the others.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import litellm

os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers")

from bespokelabs import curator
from pydantic import BaseModel


class Negatives(BaseModel):
    """The four texts of an answer."""

    grade_1: str
    grade_2: str
    grade_3: str
    grade_4: str


class Writer(curator.LLM):
    """An LLM that asks for four texts."""

    response_format = Negatives

    def prompt(self, input: dict[str, Any]) -> str:
        """Return the prompt of an input."""
        return str(input["prompt"])

    def parse(self, input: dict[str, Any], response: Negatives) -> dict[str, Any]:
        """Return the row of an answer."""
        return {"id": input["id"], "texts": list(response.model_dump().values())}


def main(prompts: Path, outcome: Path, url: str, concurrency: int) -> None:
    """Run it, and write the rows of its data set."""
    writer = Writer(
        model_name="gpt-4o-mini",
        backend="openai",
        response_format=Negatives,
        backend_params={
            "base_url": url,
            "api_key": "none",
            "max_concurrent_requests": concurrency,
            "max_requests_per_minute": 10**7,
            "max_tokens_per_minute": 10**10,
            "require_all_responses": False,
        },
    )
    entries = [json.loads(line) for line in prompts.read_text().splitlines()]
    found = writer(entries, working_dir=str(Path.cwd() / "curator"))
    with outcome.open("w") as file:
        for row in found.dataset:
            file.write(json.dumps({"id": row["id"], "texts": row["texts"]}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
