"""Estimate the usage and cost of requests before anything is spent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from multigrain.config import Config
from multigrain.llm.budget import TEMPLATE_TOKENS, Budget, Prices, Usage, prices_of
from multigrain.llm.clients.factory import model_name
from multigrain.llm.dialect import Dialect
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Request
from multigrain.llm.store import AnswerStore
from multigrain.pipeline.generation.ask import spent
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair
from multigrain.synthesis.negatives import requests_each
from multigrain.synthesis.token_bound import Bound

PILOT = 20
"""Minimum number of answered calls to estimate the cost of a run from."""
BYTES_PER_TOKEN = 4
"""Bytes per token of English text; other languages have fewer."""


@dataclass(frozen=True)
class Estimate:
    """An estimate of the usage of all requests of a run."""

    likely: Usage
    """Likely usage."""
    most: Usage
    """Upper bound of the usage, if each input is answered at the first try."""
    is_priced: bool
    """Whether the price is known."""
    basis: str
    """Basis of the estimate, in words."""
    so_far: dict[str, float]
    """Usage in the run folder so far."""
    prompt: str
    """One of the prompts that will be sent."""


def estimate_usage(config: Config, prompts: Iterable[Prompted[Any]], whole: Usage | None = None) -> Estimate | None:
    """Estimate the usage of the prompts from the calls answered so far, or else from the prompts.

    Args:
        config: the run.
        prompts: all prompts, or a sample.
        whole: if they are a sample, the upper bound for all of them; see `usage_bound`.

    Returns:
        None if there are no requests.
    """
    prices = prices_of(config.llm)
    budget = Budget(config.llm, prices, Usage())
    likely, most = Usage(), Usage()
    request = dialect = None
    for prompted in prompts:
        dialect = dialect if request else _known_dialect(config, prompted.request)
        request = prompted.request.suited(dialect)
        likely += likely_usage(request, budget.prices)
        most += budget.bound(request)
    if request is None:
        return None
    if whole is not None:
        likely, most = likely.times(whole.calls / most.calls), whole
    answered, so_far = spent(RunDir(config.folder))
    basis = "the prompts, with answers half as long as allowed"
    if answered.calls >= PILOT:
        likely = answered.times(most.calls / answered.calls)
        basis = f"the {answered.calls} calls answered so far"
    return Estimate(
        likely=likely,
        most=most,
        is_priced=prices is not None,
        basis=basis,
        so_far={"calls": so_far.calls, "tokens": so_far.tokens, "dollars": round(so_far.cost, 4)},
        prompt=request.prompt,
    )


def _known_dialect(config: Config, request: Request) -> Dialect | None:
    """Return what an earlier command learnt about the first server, such as whether its model reasons."""
    store = RunDir(config.folder).store
    if not store.is_file() or not config.llm.base_url:
        return None
    with AnswerStore(store) as answers:
        return answers.dialect(config.llm.base_url[0], request.dialect_key)


def usage_bound(config: Config, pairs: Sequence[Pair]) -> Usage:
    """Return the upper bound of the usage of all requests about the pairs, if each is answered at the first try."""
    calls = len(pairs) * requests_each(config)
    prompt_bytes, answer_tokens = Bound(config, model_name(config.llm)).of(pairs)
    tokens = prompt_bytes + calls * TEMPLATE_TOKENS, answer_tokens
    return Usage(calls, *tokens, (prices_of(config.llm) or Prices()).of(*tokens))


def likely_usage(request: Request, prices: Prices) -> Usage:
    """Return the likely usage of a request, whose answer is assumed to be half as long as allowed."""
    tokens = len(request.prompt.encode("utf-8", "replace")) // BYTES_PER_TOKEN, request.max_tokens // 2
    return Usage(1, *tokens, prices.of(*tokens))
