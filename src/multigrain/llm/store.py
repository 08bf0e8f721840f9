"""All calls made and all answers paid for, in one SQLite file.

calls      one row per request sent: the raw reply, or why there is none, and its usage. Written before the request is
           sent, so that nothing that may have cost money is forgotten, even after kill -9. `batch` is the batch that
           it was sent in, or `import-` and a digest for an answer that another engine gave.
inputs     one row per settled input: `ok` with the call that answered it, `parked` with the reason, or back to `todo`.
           An input without a row was never settled. One in a batch is `batched`.
batches    the files of requests submitted as a whole.
dialects   what was learnt about each server and model.

Raw replies are stored apart from what is parsed from them. A better parser can therefore find in old replies what an
earlier one missed, and nothing is paid for twice.
"""

from multigrain.llm.store_batches import Batch, Batches
from multigrain.llm.store_calls import Calls
from multigrain.llm.store_inputs import BATCHED, Inputs
from multigrain.llm.store_servers import Servers

__all__ = ["BATCHED", "AnswerStore", "Batch"]


class AnswerStore(Calls, Inputs, Batches, Servers):
    """Inputs by request key, with their calls and batches, and the dialects of servers.

    The store inherits from four classes, one for each table. They share one connection and one transaction, so an input
    and its calls change together, and callers need not know which table holds the data. See `Database` for how to open
    the store.

    Example:
        >>> with AnswerStore(path) as store:  # doctest: +SKIP
        ...     call = store.begin_call(request.key, request.max_tokens, bound)
        ...     store.commit()
        ...     store.end_call(call, answer, usage)
        ...     store.accept(request.key, call)
    """
