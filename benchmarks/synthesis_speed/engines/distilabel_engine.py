"""distilabel: one `TextGeneration` step in JSON mode, batches as large as the concurrency, resuming from its own cache.

python distilabel_engine.py PROMPTS OUTCOME URL CONCURRENCY
"""

import json
import sys
from pathlib import Path

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def main(prompts: Path, outcome: Path, url: str, concurrency: int) -> None:
    """Run the pipeline, and write the rows with an answer of four texts."""
    rows = [
        {"id": entry["id"], "instruction": entry["prompt"]}
        for entry in map(json.loads, prompts.read_text().split("\n")[:-1])
    ]
    parameters = {"response_format": {"type": "json_object"}, "max_new_tokens": 700}
    with Pipeline(name="negatives", cache_dir=Path.cwd() / "distilabel") as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=concurrency)
        write = TextGeneration(
            name="write",
            llm=OpenAILLM(model="mock", base_url=url, api_key="none", generation_kwargs=parameters),
            input_batch_size=concurrency,
            add_raw_output=False,
        )
        load >> write
    found = pipeline.run(use_cache=True)["default"]["train"]
    with outcome.open("w") as file:
        for identifier, text in zip(found["id"], found["generation"], strict=True):
            if texts := read(text):
                file.write(json.dumps({"id": identifier, "texts": texts}) + "\n")


def read(text: str | None) -> list[str] | None:
    """Return the texts of an answer. The step passes on whatever the model wrote, and None without an answer."""
    try:
        value = json.loads(text or "")
        return [value[f"grade_{grade}"] for grade in (1, 2, 3, 4)]
    except (ValueError, KeyError):
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
