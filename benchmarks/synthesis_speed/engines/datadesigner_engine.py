"""DataDesigner: one structured column over a seed data set, resuming from its own artifacts.

    python datadesigner_engine.py PROMPTS OUTCOME URL CONCURRENCY

Row groups of 100 instead of 1,000 rows, because only finished groups survive an interruption.
"""

import json
import sys
from pathlib import Path

import data_designer.config as dd
from data_designer.interface import DataDesigner
from pydantic import BaseModel

ROW_GROUP = 100


class Negatives(BaseModel):
    """The four texts of an answer."""

    grade_1: str
    grade_2: str
    grade_3: str
    grade_4: str


def main(prompts: Path, outcome: Path, url: str, concurrency: int) -> None:
    """Fill the column, and write its rows."""
    count = len(prompts.read_text().splitlines())
    provider = dd.ModelProvider(name="mock", endpoint=url, provider_type="openai", api_key="none")
    parameters = dd.ChatCompletionInferenceParams(max_parallel_requests=concurrency, max_tokens=700)
    model = dd.ModelConfig(alias="writer", model="mock", provider="mock", inference_parameters=parameters)
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.LocalFileSeedSource(path=str(prompts)))
    builder.add_column(
        dd.LLMStructuredColumnConfig(
            name="negatives", prompt="{{ prompt }}", model_alias="writer", output_format=Negatives
        )
    )
    designer = DataDesigner(artifact_path=Path.cwd() / "datadesigner", model_providers=[provider])
    designer.set_run_config(dd.RunConfig(buffer_size=ROW_GROUP, otel_metrics_port=None))
    made = designer.create(builder, num_records=count, resume=dd.ResumeMode.IF_POSSIBLE).load_dataset()
    with outcome.open("w") as file:
        for identifier, negatives in zip(made["id"], made["negatives"], strict=True):
            texts = [negatives[f"grade_{grade}"] for grade in (1, 2, 3, 4)]
            file.write(json.dumps({"id": identifier, "texts": texts}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
