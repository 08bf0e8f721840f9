"""Every call that was made and every answer that was paid for, in one SQLite file.

calls      one row a request that went out: the raw reply, or why there is none, and what it took. Written before the
           request is sent, so nothing that may have cost is forgotten, also after kill -9.
inputs     one row an input that is settled: `ok` with the call that answered it, `parked` with the reason, or back to
           `todo`. An input without a row was never settled. One in a batch is `batched`.
batches    the files of requests that were handed over as a whole.
dialects   what was learnt about each server and model.

Raw replies are kept apart from what is read in them: a better reader finds in the old replies what the first one
missed, and nothing is paid for twice.
"""

from multigrain.llm.store_batches import Batch, Batches
from multigrain.llm.store_calls import Calls
from multigrain.llm.store_inputs import BATCHED, Inputs
from multigrain.llm.store_servers import Servers

__all__ = ["BATCHED", "AnswerStore", "Batch"]


class AnswerStore(Calls, Inputs, Batches, Servers):
    """Inputs by request key, with the calls that were made for them, their batches, and the dialects of servers.

    The statements are in four classes, one for each table, and the store inherits from all of them: they share one
    connection and one transaction, an input and its calls change together, and a caller need not know which table
    holds what it wants. See `Database` for how the store is opened.

    Example:
        >>> with AnswerStore(path) as store:  # doctest: +SKIP
        ...     call = store.begin_call(request.key, request.max_tokens, bound)
        ...     store.commit()
        ...     store.end_call(call, answer, usage)
        ...     store.accept(request.key, call)
    """
