"""The base's frozen layers in parts, one part in each process (``accelerate launch --use_fsdp -m guardrail train``).

Only storage is sharded: torch's ``fully_shard`` (FSDP2) gathers a layer's weights for its forward and its backward pass
and lets them go again. What is trained is small and stays whole in every process, where DistributedDataParallel sums
its gradient as without sharding; so do the embeddings and the head, which losses read outside of the wrapped module.
Methods, checkpoints and the saved adapter know nothing of it.

What is sharded are copies of the layers (same parameters, own hooks and class): they are taken out again at the end,
and the layers that were there get their weights back, bit by bit. Idea of sharding what is frozen and not what is
trained: FSDP-QLoRA (Answer.AI, 2024).

Not covered: bases that do not fit into one device whole (they are loaded whole, and answer and are measured whole),
gathering a layer ahead while another computes, and what a process that failed leaves of the base.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from guardrail.errors import InvalidInput
from guardrail.model.hidden_states import body
from guardrail.model.load import BaseModel
from guardrail.train import processes
from guardrail.train.student import Student


@dataclass(frozen=True)
class ShardPlace:
    """Where a layer stands: ``layers[index]``, which is ``whole`` before and after."""

    layers: torch.nn.ModuleList
    index: int
    whole: torch.nn.Module

    def shard(self, mesh: Any) -> None:
        """Put a sharded copy in the layer's place, and let the layer's own weights go."""
        from torch.distributed.fsdp import fully_shard

        shared = {id(tensor): tensor for tensor in (*self.whole.parameters(), *self.whole.buffers())}
        trained = {parameter for parameter in self.whole.parameters() if parameter.requires_grad}
        copied = copy.deepcopy(self.whole, dict(shared))
        fully_shard(copied, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
        self.layers[self.index] = copied
        for parameter in _frozen(self.whole).values():
            parameter.data = parameter.new_empty(0)

    def restore(self) -> None:
        """Put the layer back, with its weights (every process must call it)."""
        copied = self.layers[self.index]
        for name, parameter in _frozen(self.whole).items():
            part: Any = copied.get_parameter(name)
            parameter.data = part.full_tensor().detach()
        self.layers[self.index] = self.whole


@contextmanager
def sharded(base: BaseModel, student: Student) -> Iterator[None]:
    """Within it the layers of ``base`` are sharded, where the launcher was told to; after an error they stay so.

    Raises:
        InvalidInput: the base does not keep its layers in lists, or they share weights.
    """
    if not processes.shards():
        yield
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.nn.parallel import DistributedDataParallel

    places = find_layers(base.model)
    mesh = init_device_mesh(base.device.type, (processes.count(),))
    for place in places:
        place.shard(mesh)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(student, list(_frozen(student)))
    yield
    for place in places:
        place.restore()


def find_layers(model: Any) -> list[ShardPlace]:
    """The layers of a base: what stands in the lists of its body.

    Raises:
        InvalidInput: there are none, or a weight belongs to two.
    """
    lists = [child for child in body(model).children() if isinstance(child, torch.nn.ModuleList)]
    places = [ShardPlace(layers, index, layer) for layers in lists for index, layer in enumerate(layers)]
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    mine = [id(parameter) for place in places for parameter in _frozen(place.whole).values()]
    if not places or any(uses[key] > 1 for key in mine):
        raise InvalidInput(
            f"{type(model).__name__} " + ("shares weights between its layers" if places else "has no list of layers"),
            expected="a base whose body keeps its layers in a list, each with weights of its own",
            next_step="launch without --use_fsdp: every process then holds the base whole",
        )
    return places


def _frozen(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if not parameter.requires_grad}
