"""A configuration for pairs of drawn words, for tests of what is told before a run begins."""

import random
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.records import Pair


def config(pairs: Path | str = "a.jsonl", **sections: Any) -> Config:
    return Config.model_validate({"name": "x", "data": {"pairs": str(pairs)}, **sections})


def texts(count: int, words: int = 60) -> list[Pair]:
    draw = random.Random(1)
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz ä", k=draw.randint(3, 9))) for _ in range(2000)]
    return [
        Pair(str(n), " ".join(draw.choices(known, k=8)), " ".join(draw.choices(known, k=draw.randint(1, 2 * words))))
        for n in range(count)
    ]
