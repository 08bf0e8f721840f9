"""Memory for activations: which micro-batches keep their graph, and which are encoded twice (GradCache)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from multigrain.training.unique_texts import Features


class ActivationBudget:
    """The room for activations in one step.

    What they take is measured, so it holds for any model; on this step's micro-batches alone, so that a resumed
    training decides alike.

    Args:
        limit: bytes that may be kept.
        counted: addresses of storages that are in memory anyway, such as the weights.
    """

    def __init__(self, limit: int, counted: set[int]) -> None:
        self._left = float(limit)
        self._per_token = 0.0
        self._counted = set(counted)

    def has_room_for(self, batch: Features) -> bool:
        """Return whether there is room to keep the graph of this micro-batch."""
        tokens: int = batch["attention_mask"].numel()
        return self._left > self._per_token * tokens

    @contextmanager
    def measured(self, batch: Features) -> Iterator[None]:
        """Count, in the block, what is saved for the backward pass of this micro-batch."""

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._counted:
                self._counted.add(storage.data_ptr())
                self._left -= storage.nbytes()
            return tensor

        before = self._left
        with saved_tensors_hooks(count, lambda tensor: tensor):
            yield
        self._per_token = (before - self._left) / batch["attention_mask"].numel()  # the next has no longer texts


@dataclass(frozen=True)
class KeptGraphs:
    """The embeddings, with their graph, of those micro-batches of a group that are kept for the backward pass.

    Attributes:
        memory: the room for them, shared by all groups of a step.
        is_last: whether the group is the last of the step.
        graphs: embeddings by the number of the micro-batch.
    """

    memory: ActivationBudget
    is_last: bool
    graphs: dict[int, Tensor] = field(default_factory=dict)
