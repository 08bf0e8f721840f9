"""Memory for activations: decide which micro-batches keep their graph, and which are encoded twice (GradCache)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from multigrain.training.unique_texts import Features


class ActivationBudget:
    """The memory budget for activations in one step.

    The size of activations is measured, so the budget works for any model. Only micro-batches of this step are
    measured, so a resumed training makes the same decisions.

    Args:
        limit: maximum number of bytes to keep.
        counted: addresses of storages that are in memory anyway, such as the weights.
    """

    def __init__(self, limit: int, counted: set[int]) -> None:
        self._left = float(limit)
        self._per_token = 0.0
        self._counted = set(counted)

    def has_room_for(self, batch: Features) -> bool:
        """Return whether the graph of this micro-batch fits into the remaining budget."""
        tokens: int = batch["attention_mask"].numel()
        return self._left > self._per_token * tokens

    @contextmanager
    def measured(self, batch: Features) -> Iterator[None]:
        """Count the bytes that the block saves for the backward pass of this micro-batch."""

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._counted:
                self._counted.add(storage.data_ptr())
                self._left -= storage.nbytes()
            return tensor

        before = self._left
        with saved_tensors_hooks(count, lambda tensor: tensor):
            yield
        # The texts of the next micro-batch are at most as long.
        self._per_token = (before - self._left) / batch["attention_mask"].numel()


@dataclass(frozen=True)
class KeptGraphs:
    """The micro-batches of a group that are kept for the backward pass.

    Attributes:
        memory: the budget, shared by all groups of a step.
        is_last: whether the group is the last one of the step.
        graphs: embeddings with their graph, by the index of the micro-batch.
    """

    memory: ActivationBudget
    is_last: bool
    graphs: dict[int, Tensor] = field(default_factory=dict)
