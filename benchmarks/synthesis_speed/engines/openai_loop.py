"""A careful hand-written loop around the `openai` client: 64 workers, a schema, retries, a file to resume from.

python openai_loop.py PROMPTS OUTCOME URL CONCURRENCY
"""

import asyncio
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI, OpenAIError
from pydantic import BaseModel, ValidationError

TRIES = 6


class Negatives(BaseModel):
    """The four texts of an answer."""

    grade_1: str
    grade_2: str
    grade_3: str
    grade_4: str


async def ask(client: AsyncOpenAI, prompt: str) -> dict[str, object]:
    """Return the texts, or the reason for their absence. The client itself retries after 429, 500 and cuts."""
    for _ in range(TRIES):
        try:
            reply = await client.chat.completions.parse(
                model="mock", messages=[{"role": "user", "content": prompt}], response_format=Negatives
            )
            if negatives := reply.choices[0].message.parsed:
                return {"texts": list(negatives.model_dump().values())}
        except ValidationError:
            continue
        except OpenAIError as error:
            return {"reason": f"{type(error).__name__}: {error}"}
    return {"reason": "unreadable"}


async def main(prompts: Path, outcome: Path, url: str, concurrency: int) -> None:
    """Ask for every input that the outcome lacks, and append the answers."""
    lines = outcome.read_text().splitlines() if outcome.exists() else []
    done = {json.loads(line)["id"] for line in lines}
    todo = iter([entry for entry in map(json.loads, prompts.open()) if entry["id"] not in done])
    with outcome.open("a") as file:
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=TRIES - 1) as client:

            async def work() -> None:
                for entry in todo:
                    answer = {"id": entry["id"], **await ask(client, entry["prompt"])}
                    file.write(json.dumps(answer) + "\n")
                    file.flush()

            await asyncio.gather(*(work() for _ in range(concurrency)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
