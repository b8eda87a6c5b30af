"""How much the base's predictions depend on each weight that LoRA adapts: the diagonal of the Fisher information.

EWC (Kirkpatrick et al., 2017, arXiv 1612.00796) punishes changes of weights by their Fisher information. For LoRA the
weights that count are the adapted matrices W, not lora_A and lora_B: where lora_B = 0, the gradient of lora_A is
exactly 0, and a Fisher taken there protects nothing. Per row (sample), the gradient of W is the product of the layer's
inputs and of the gradient of its output, summed over positions; it is squared row by row, because the square of a
batch's mean gradient is another number. The square of the loss's gradient on given answers would be the *empirical*
Fisher, which is not the Fisher (Kunstner et al., 2019, arXiv 1905.12558): the labels are drawn from the model's own
predictions (Martens, 2020, arXiv 1412.1193).

Not covered: entries off the diagonal, layers that a forward pass calls twice or without a row dimension (mixtures of
experts, OPT's feed-forward layers in some releases), LoRA on embeddings or convolutions, DoRA. All are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from guardrail.errors import InternalError, InvalidInput
from guardrail.model.chat import Encoded
from guardrail.model.head import project
from guardrail.model.hidden_states import body
from guardrail.model.load import BaseModel
from guardrail.model.updates import Update
from guardrail.train.collate import Batch, pad
from guardrail.train.distillation import CHUNK, Project, cross_entropy

WRAPPER = "base_model.model."
ENTRIES = 2**26  # of per-row gradients that exist at a time: 256 MiB in float32, or one row of a larger matrix


def diagonal_fisher(
    base: BaseModel, model: Any, rows: Sequence[Encoded], *, generator: torch.Generator, batch_size: int = 8
) -> dict[str, torch.Tensor]:
    """Mean over rows of the squared gradient of -log p(y | x) with respect to each adapted weight matrix.

    A label y is drawn once at each position that predicts an answer token, given the row's own tokens before it; a
    row's -log p(y | x) is the sum over these positions. Dropout is off, no parameter's ``grad`` is touched, and up to
    rounding the result depends on the rows and the generator only, not on ``batch_size``.

    Args:
        base: the base, with LoRA layers in place and without effect (lora_B = 0).
        model: the same with or without peft's wrapper: names do not depend on it.
        rows: prompts with answers; only where the answers' tokens stand matters, and what precedes each.
        generator: draws one uniform number for each answer token, in the order of the rows.
        batch_size: rows in one pass.

    Returns:
        name of the adapted module in the base -> [out, in] (also for GPT-2's transposed layers), float32 (float64 for
        a float64 base), on the base's device: four bytes for each adapted weight.

    Raises:
        InvalidInput: no rows, or an adapted layer of a kind that is not covered.
        InternalError: nothing is adapted.
    """
    if not rows:
        raise InvalidInput("there are no rows to take the Fisher information on", expected="at least one row")
    starts = list(accumulate((len(row.answer) for row in rows), initial=0))
    uniform = torch.rand(starts[-1], generator=generator, dtype=torch.float64, device=generator.device)
    with _recording(base, model) as recorder:
        for first in range(0, len(rows), batch_size):
            chosen = rows[first : first + batch_size]
            recorder.start(len(chosen))
            draws = uniform[starts[first] : starts[first + len(chosen)]].to(base.device)
            _backward(base, pad(chosen).to(base.device), draws, recorder)
    return {name: total.div_(len(rows)) for name, total in recorder.sums.items()}


def draw_labels(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Labels [tokens] from softmax(logits [tokens, vocabulary]) at uniform numbers [tokens] of [0, 1): inverse CDF."""
    cumulated = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    points = (uniform.to(cumulated) * cumulated[:, -1]).unsqueeze(-1)
    return torch.searchsorted(cumulated, points, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)


def relative(fisher: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The Fisher information divided, *in place*, by its mean over all entries of all matrices, so that a penalty's
    weight has a scale that does not depend on the model (ours, not of the paper).

    Raises:
        InternalError: a matrix's Fisher is all zero (it would protect nothing) or not finite, or there is none.
    """
    if not fisher:
        raise InternalError("there is no Fisher information", expected="one matrix for each adapted module")
    sums = {name: float(value.sum(dtype=torch.float64)) for name, value in fisher.items()}
    for name, total in sums.items():
        if not 0.0 < total < float("inf"):  # entries are squares: their sum is finite only where they all are
            raise InternalError(f"the Fisher information of {name} sums to {total}", expected="a positive number")
    mean = sum(sums.values()) / sum(value.numel() for value in fisher.values())
    for value in fisher.values():
        value.div_(mean)
    return fisher


def lora_updates(model: Any) -> dict[str, Update]:
    """The factors of dW = scaling * lora_B lora_A [out, in] of each adapted module: the parameters themselves.

    [out, in] whatever the layout of the base's weight: the names and shapes are those of :func:`diagonal_fisher`.

    Raises:
        InvalidInput: an adapted layer of a kind that is not covered.
        InternalError: nothing is adapted.
    """
    return {name: _update(layer) for name, layer in _adapted(model).items()}


def _update(layer: Any) -> Update:
    (adapter,) = layer.lora_A
    return Update(layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, float(layer.scaling[adapter]))


def _adapted(model: Any) -> dict[str, Any]:
    """The LoRA layers by the name that their module has in the base."""
    wanted = ("lora_A", "lora_B", "scaling", "base_layer")
    layers = {
        name.removeprefix(WRAPPER): module
        for name, module in model.named_modules()
        if all(hasattr(module, attribute) for attribute in wanted)
    }
    if not layers:
        raise InternalError("the model has no LoRA layers", expected="a base with an adapter")
    for name, layer in layers.items():
        factors = [factor.weight for factor in (*layer.lora_A.values(), *layer.lora_B.values())]
        if [factor.ndim for factor in factors] != [2, 2] or getattr(layer, "lora_variant", None):
            raise _not_covered(name, "is not one plain LoRA adapter on a linear layer")
    return layers


def _not_covered(name: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"no Fisher information for {name}: it {why}",
        expected="linear layers that a forward pass calls once, on [rows, positions, in]",
        next_step="name other LoRA targets, or use a method that needs no Fisher information",
    )


def _backward(base: BaseModel, batch: Batch, uniform: torch.Tensor, recorder: _Recorder) -> None:
    """One batch through the model and back; the recorder listens."""
    head: Project = partial(project, base.model)
    hidden = body(base.model)(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).last_hidden_state
    states = batch.answer_states(hidden)
    pieces = zip(states.detach().split(CHUNK), uniform.split(CHUNK), strict=True)
    with torch.no_grad():
        labels = torch.cat([draw_labels(head(part), draws) for part, draws in pieces])
    # Towards the embeddings, not the parameters: every layer lies on the way, and no parameter's grad is touched.
    torch.autograd.grad(cross_entropy(states, labels, head), recorder.embedded)


@contextmanager
def _recording(base: BaseModel, model: Any) -> Iterator[_Recorder]:
    layers = _adapted(model)
    recorder = _Recorder(layers)
    handles = [layer.register_forward_hook(partial(recorder.called, name)) for name, layer in layers.items()]
    handles.append(base.model.get_input_embeddings().register_forward_hook(recorder.embeds))
    training = base.model.training
    base.model.eval()
    try:
        with torch.enable_grad():
            yield recorder
    finally:
        for handle in handles:
            handle.remove()
        base.model.train(training)


class _Recorder:
    """Adds up squared per-row gradients as a backward pass meets the layers: only one layer's exist at a time."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.sums = {name: self._zeros(layer) for name, layer in layers.items()}
        self.embedded: list[torch.Tensor] = []
        self._rows, self._seen = 0, set[str]()

    def start(self, rows: int) -> None:
        """A batch of so many rows comes."""
        self.embedded, self._rows, self._seen = [], rows, set()

    def embeds(self, module: Any, args: Any, output: torch.Tensor) -> None:
        """The embeddings were looked up: the backward pass must come as far as this."""
        del module, args
        self.embedded.append(output.requires_grad_())

    def called(self, name: str, module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """A layer was called. Its output's gradient is its base layer's too: LoRA's part is added to that."""
        del module
        if args[0].ndim != 3 or args[0].shape[0] != self._rows:
            raise _not_covered(name, f"reads {tuple(args[0].shape)} for {self._rows} rows")
        if name in self._seen:
            raise _not_covered(name, "is called twice in a forward pass")
        self._seen.add(name)
        output.register_hook(partial(self._add, name, args[0].detach()))

    def _add(self, name: str, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        total = self.sums[name]
        rows = max(1, ENTRIES // total.numel())
        for x, g in zip(inputs.split(rows), gradient.split(rows), strict=True):
            total += torch.einsum("bto,bti->boi", g.to(total.dtype), x.to(total.dtype)).square_().sum(0)

    @staticmethod
    def _zeros(layer: Any) -> torch.Tensor:
        (a,), (b,) = layer.lora_A.values(), layer.lora_B.values()
        dtype = torch.promote_types(layer.base_layer.weight.dtype, torch.float32)
        return torch.zeros(b.weight.shape[0], a.weight.shape[1], dtype=dtype, device=b.weight.device)
