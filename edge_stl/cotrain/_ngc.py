"""NGC and CompNGC: neighbourhood gradients for boxes that see different classes.

Aketi, Kodge and Roy, arXiv 2209.14390. The gradient of a box is a
weighted mean of its own, of its neighbours' models on its own images (model-variant, computed
here) and of its model on the neighbours' images (data-variant, computed there and sent back).
With the model x, the minibatch xi and the mixing weights w of the Metropolis-Hastings matrix::

    y_i  = x_i + gamma sum_j w_ij (x_j - x_i)                     first exchange: models
    g_i  = grad F(x_i; xi_i)           h_ij = grad F(x_j; xi_i)
    G_i  = (1 - alpha) (w_ii g_i + sum_j w_ij h_ij)               second exchange: h_ij to j
         + alpha       (w_ii g_i + sum_j w_ij h_ji)
    x_i <- y_i - rate * momentum(G_i + weight_decay y_i)

On a regular graph of p neighbours every w is ``1 / (p + 1)``, as in the paper. On another graph
a cross-gradient has the weight of its edge: the matrix is symmetric with rows and columns that sum
to 1, so every box's images weigh the same in the sum over all boxes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_stl.cotrain._graph import metropolis
from edge_stl.cotrain._local import LocalSettings
from edge_stl.cotrain._message import Message, pack_floats, unpack_floats
from edge_stl.cotrain._node import Messages, Node, Round, Seat
from edge_stl.cotrain._problem import Batch, Flat, Problem
from edge_stl.cotrain._settings import check_ranges
from edge_stl.cotrain._sign import compress_signs, pack_signs, unpack_signs
from edge_stl.errors import CheckError, DataError, UsageError


GRADIENT_POINTS = ("exchanged", "reference")
_MODEL, _GRADIENT, _SIGNS = 0, 1, 2
"""Kinds of message."""
_NO_GRADIENT = (
    "a model whose gradient on the images here is not finite; expected a number. Lower the "
    "learning rate"
)


@dataclass(frozen=True)
class NGCSettings:
    """What NGC and CompNGC add to the local steps.

    Learning rate, momentum, Nesterov and weight decay are `LocalSettings`; the authors' defaults
    are 0.01, 0.9, yes and 0. Momentum is local, on the mixed gradient.

    Attributes:
        alpha: weight of the data-variant against the model-variant gradients, 0..1; default 1.0
            (the authors' README). 0 has no second exchange.
        gamma: share of the way to the neighbours' mean, 0..1; default 0.1 (the authors' README;
            0.5 with ten boxes, one class each, 1.0 where all see all classes).
        gradient_at: where a box takes its own gradient: ``exchanged``, at the model it sent, like
            the gradients of it that come back (the default: what is averaged are then gradients at
            one and the same point); ``reference``, at y, after the gossip, as the authors' code
            does.
        quasi_global: momentum from the way the model went, gossip included, in place of that of
            the gradients (Lin et al., ICML 2021; an option of the authors' code); default no.
            Needs a momentum above 0.
    """

    alpha: float = 1.0
    gamma: float = 0.1
    gradient_at: str = "exchanged"
    quasi_global: bool = False

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of its range.
        """
        points = " or ".join(GRADIENT_POINTS)
        check_ranges(
            ("alpha", self.alpha, 0 <= self.alpha <= 1, "0 to 1"),
            ("gamma", self.gamma, 0 <= self.gamma <= 1, "0 to 1"),
            ("gradient_at", self.gradient_at, self.gradient_at in GRADIENT_POINTS, points),
        )


def gradient_weights(degree: int, degrees: Mapping[int, int]) -> tuple[float, dict[int, float]]:
    """Return the weight of a box's own gradient and of each neighbour's that answered; sum 1.

    They are the mixing weights. The share of a neighbour that did not answer goes to all others in
    proportion, so that what they weigh stays a mean; its degree is not known, so its share is
    taken as ``1 / (degree + 1)``, the most it can be.

    Args:
        degree: the node's own number of neighbours.
        degrees: that of each neighbour that answered.
    """
    weights = metropolis(degree, degrees)
    there = 1 - max(0, degree - len(degrees)) / (degree + 1)
    return (there - sum(weights.values())) / there, {j: w / there for j, w in weights.items()}


def neighbourhood_gradient(model_variant: Tensor, data_variant: Tensor, alpha: float) -> Tensor:
    """Return ``(1 - alpha) * model_variant + alpha * data_variant``, all ``(P,)``."""
    return model_variant.mul(1 - alpha).add_(data_variant, alpha=alpha)


def quasi_global_momentum(
    momentum: Tensor, before: Tensor, now: Tensor, *, rate: float, beta: float
) -> Tensor:
    """Return ``beta m + (1 - beta) (y_before - y_now) / rate``, all ``(P,)``.

    Args:
        momentum: m.
        before: y of the step before.
        now: y of this step.
        rate: the learning rate of the step before, with which y came from there to here.
        beta: the momentum factor.
    """
    return momentum.mul(beta).add_(before - now, alpha=(1 - beta) / rate)


class NGC(Node):
    """A node that steps along its neighbourhood's gradient.

    A step takes one minibatch and two exchanges, one with ``alpha`` 0; a round is
    ``LocalSettings.steps`` of them. Each neighbour's model and gradient is read, used and dropped
    before the next: beside the messages themselves there are the network's own parameters as a
    scratch model and two sums of gradients.

    Args:
        seat: which one.
        problem: what it learns from.
        local: how it steps on its own images.
        settings: of the method.

    Raises:
        UsageError: quasi-global momentum without momentum.
    """

    def __init__(
        self, seat: Seat, problem: Problem, local: LocalSettings, settings: NGCSettings
    ) -> None:
        super().__init__(seat, problem, local)
        if settings.quasi_global and not local.momentum:
            raise UsageError(
                "quasi_global with momentum = 0: nothing to carry over; expected a momentum above "
                "0. Set momentum, or leave quasi_global out"
            )
        self.settings = settings
        self._flat = Flat(tuple(problem.shapes))
        self._before: tuple[Tensor, float] | None = None
        """y and the learning rate of the step before; for quasi-global momentum alone."""

    def round(self, number: int) -> Round:
        """Take the steps of a round: models out, cross-gradients back, step."""
        losses, steps, alpha = 0.0, self.local.settings.steps, self.settings.alpha
        for k in range(steps):
            batch, vector = self.problem.batch(number * steps + k), self.vector
            model = self._message(number, k, _MODEL, pack_floats(vector))
            inbox = yield dict.fromkeys(self.seat.neighbours, model)
            outbox: dict[int, Message] = {}
            own, mean, point, loss = self._model_variant(inbox, batch, number, k, outbox)
            losses += loss
            if alpha:
                inbox = yield outbox
                data = self._data_variant(inbox, own, number, k)
                mean = neighbourhood_gradient(mean, data, alpha)
            self._step(point, mean, number)
        return losses / steps

    def _model_variant(
        self, inbox: Messages, batch: Batch, number: int, k: int, outbox: dict[int, Message]
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return the own gradient, the model-variant mean, y and the loss; fill the outbox."""
        vector, settings = self.vector, self.settings
        degrees = self.read(inbox, lambda m: self._check(m, number, k, _MODEL))
        mixing = metropolis(self.seat.degree, degrees)
        own_weight, weights = gradient_weights(self.seat.degree, degrees)
        point, mean, left = vector.clone(), torch.zeros_like(vector), dict(degrees)
        for j in sorted(degrees):
            model = unpack_floats(inbox[j].values, len(vector))
            cross, _ = self.problem.gradient(model, batch)
            if not bool(torch.isfinite(cross).all()):
                # before it spoils an error memory or goes back
                self.refused[j] = _NO_GRADIENT
                del left[j]
                continue
            point.add_(model - vector, alpha=settings.gamma * mixing[j])
            cross, payload = self._compress(j, cross)
            mean.add_(cross, alpha=weights[j])
            if settings.alpha:
                outbox[j] = self._message(number, k, self._kind, payload)
        if len(left) < len(degrees):
            own_weight, fewer = gradient_weights(self.seat.degree, left)
            # those that are left grow by one factor, whichever of them is asked
            mean.mul_(max((fewer[j] / weights[j] for j in fewer), default=1.0))
        at = point if settings.gradient_at == "reference" else vector
        own, loss = self.problem.gradient(at, batch)
        _must_be_finite(own, number, "the gradient of its own model")
        own, _ = self._compress(self.seat.index, own)
        return own, mean.add_(own, alpha=own_weight), point, loss

    def _data_variant(self, inbox: Messages, own: Tensor, number: int, k: int) -> Tensor:
        """Return the data-variant mean ``(P,)`` of those that answered and the own gradient."""
        degrees = self.read(inbox, lambda m: self._check(m, number, k, self._kind))
        own_weight, weights = gradient_weights(self.seat.degree, degrees)
        mean = own * own_weight
        for j in sorted(degrees):
            mean.add_(self._decompress(inbox[j].values), alpha=weights[j])
        return mean

    def _step(self, point: Tensor, gradient: Tensor, number: int) -> None:
        """Go from y along the mixed gradient; ``point`` becomes the model."""
        if self.settings.quasi_global:
            beta = self.local.settings.momentum
            slow = torch.zeros_like(point)
            if self._before is not None and self.local.buffer is not None:
                before, rate = self._before
                slow = quasi_global_momentum(self.local.buffer, before, point, rate=rate, beta=beta)
            self._before = point.clone(), self.local.settings.rate_at(number)
            # The local step makes beta m + G of its buffer; what persists is m without G.
            self.local.buffer = slow.clone()
            self.local.apply(point, gradient, number)
            self.local.buffer = slow
        else:
            self.local.apply(point, gradient, number)
        self.vector = point

    _kind = _GRADIENT

    def _compress(self, node: int, gradient: Tensor) -> tuple[Tensor, bytes]:
        """Return what stands for a gradient of a node's model, and its bytes for the wire."""
        sent = self.settings.alpha and node != self.seat.index
        return gradient, pack_floats(gradient) if sent else b""

    def _decompress(self, data: bytes) -> Tensor:
        return unpack_floats(data, len(self.vector))

    def _message(self, number: int, k: int, kind: int, values: bytes) -> Message:
        return Message(number, kind, self.seat.degree, flag=k % 256, values=values)

    def _check(self, message: Message, number: int, k: int, kind: int) -> int:
        """Return the degree of a message that belongs to this exchange and can be read.

        What it holds is read again when its turn comes: the weights hang on who can be read, and
        all together would take a vector for each neighbour.

        Raises:
            DataError: it belongs to another one, or cannot be read.
        """
        found, wanted = (message.round, message.flag, message.kind), (number, k % 256, kind)
        if found != wanted:
            raise DataError(
                f"a message of round, step, kind {found}; expected {wanted}. Give every box the "
                "same method and settings"
            )
        if kind == _MODEL:
            unpack_floats(message.values, len(self.vector))
        else:
            self._decompress(message.values)
        return message.degree

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        state = super().state()
        if self._before is not None:
            state["before"] = self._before[0].clone()
            state["before_rate"] = torch.tensor(self._before[1], dtype=torch.float64)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        super().restore(state)
        before = state.get("before")
        self._before = None if before is None else (before.clone(), float(state["before_rate"]))


class CompNGC(NGC):
    """NGC whose gradients are scaled signs: a bit for each number, with error memory.

    The box's own gradient and each cross-gradient is replaced by its scaled signs everywhere, also
    in the terms that are not sent, each with an error memory of its own: p + 1 vectors for p
    neighbours. Models travel in full. With ``alpha`` 0 nothing is sent, nothing is compressed, and
    it is NGC.
    """

    _kind = _SIGNS

    def __init__(
        self, seat: Seat, problem: Problem, local: LocalSettings, settings: NGCSettings
    ) -> None:
        super().__init__(seat, problem, local, settings)
        self._errors: dict[int, Tensor] = {}

    def _compress(self, node: int, gradient: Tensor) -> tuple[Tensor, bytes]:
        if not self.settings.alpha:
            return gradient, b""
        error = self._errors.get(node)
        sent, self._errors[node], corrected = compress_signs(gradient, error, self._flat)
        own = node == self.seat.index
        return sent, b"" if own else pack_signs(corrected, self._flat)

    def _decompress(self, data: bytes) -> Tensor:
        return unpack_signs(data, self._flat)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, as copies."""
        errors = {f"error.{j}": error.clone() for j, error in sorted(self._errors.items())}
        return super().state() | errors

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        super().restore(state)
        self._errors = {
            int(name.removeprefix("error.")): error.clone()
            for name, error in state.items()
            if name.startswith("error.")
        }


def _must_be_finite(gradient: Tensor, number: int, what: str) -> None:
    """Refuse a gradient that is not finite before it spoils an error memory or a neighbour.

    Raises:
        CheckError: it is not.
    """
    if not bool(torch.isfinite(gradient).all()):
        raise CheckError(
            f"round {number}: {what} on this box's images is not finite; training diverged. Lower "
            "the learning rate"
        )
