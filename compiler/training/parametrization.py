"""How a weight comes out of what is trained, and what it ends as.

The one idea of the compiler, seen from the gradients: a compressed weight is codes and a codebook, and a parametrization says
which of the two move. ``Plain`` trains the weights themselves, under a mask where some are pruned (Deep Compression, section 2);
``Shared`` keeps the codes and trains the codebook, each centroid by the sum of its members' gradients (section 3.3);
``Ternary`` trains latent weights and two scales (TTQ, section 3). The trainer knows none of them, passes make them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eie.runtime.weight import Pattern, Weight

from ..analysis.layers import Layer

Array = npt.NDArray[Any]


class Parametrization(nn.Module, ABC):
    """A weight as a function of parameters.

    ``forward`` gives the weight, float32, [the layer's shape]; ``finish`` what the layer ends as: an array, or a Weight.

    Attributes:
        pattern: how the zeros of the finished weight lie.
    """

    pattern: Pattern = "unstructured"

    @abstractmethod
    def forward(self) -> Tensor: ...

    @abstractmethod
    def finish(self) -> Array | Weight: ...

    def decayed(self) -> list[nn.Parameter]:
        """The parameters that weight decay is for."""
        return []

    def observe(self) -> None:
        """Called before every step of the optimizer, when gradients are as backpropagation gave them."""

    def project(self) -> None:
        """Called after every step of the optimizer: bring parameters back to what they may be."""


class Plain(Parametrization):
    """The weights themselves; those outside of the mask are zero and stay so.

    Args:
        value: float32, any shape.
        mask: bool, same shape, True for weights that are kept; None: all.
        through: pruned weights still get the gradient that they would get if they were kept (dynamic network surgery), so that
            a later mask may take them back. Otherwise they get none, and are set to zero.
        pattern: of the mask.
    """

    mask: Tensor | None

    def __init__(
        self, value: Array, mask: Array | None = None, *, through: bool = False, pattern: Pattern = "unstructured"
    ) -> None:
        super().__init__()
        self.pattern = pattern
        self.value = nn.Parameter(torch.from_numpy(np.array(value, np.float32)))
        self.register_buffer("mask", None if mask is None else torch.from_numpy(np.array(mask, np.bool_)))
        self.through = through

    def forward(self) -> Tensor:
        if self.mask is None:
            return self.value
        masked = self.value * self.mask
        return self.value + (masked - self.value).detach() if self.through else masked

    def decayed(self) -> list[nn.Parameter]:
        return [self.value]

    def project(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self.mask is not None and not self.through:
            with torch.no_grad():
                self.value.mul_(self.mask)  # momentum must not carry pruned weights along

    def set_mask(self, mask: Array) -> None:
        """Another mask; float and device stay."""
        found = torch.from_numpy(np.ascontiguousarray(mask, np.bool_)).to(self.value.device)
        if self.mask is None:
            self.mask = found
        else:
            self.mask.copy_(found)
        self._clear()

    def array(self) -> Array:
        """The latent weights, pruned ones too."""
        found: Array = self.value.detach().cpu().numpy()
        return found

    def finish(self) -> Array:
        value = self.array()
        return value if self.mask is None else np.where(self.mask.cpu().numpy(), value, np.float32(0))


class Weighed(Plain):
    """Plain weights that know what each is worth to the loss: saliency w^2 E[g^2].

    Optimal brain damage (LeCun, Denker, Solla 1989): taking a weight away raises the loss by w^2 h / 2, h the curvature, here the
    empirical Fisher information: the mean square of the weight's gradients, followed along the training. With ``through``
    a weight that is pruned goes on moving and being weighed as if it were there.

    ``watch``: follow the gradients; without, all that is known is the magnitude.

    Buffers: ``power`` the running sum of squared gradients, ``seen`` how many went in, ``stage`` of the schedule that the mask
    belongs to, so that training resumes where it was.
    """

    power: Tensor
    seen: Tensor
    stage: Tensor

    MEMORY = 0.995  # the mean is over some 200 steps

    def __init__(
        self, value: Array, *, through: bool = True, watch: bool = True, pattern: Pattern = "unstructured"
    ) -> None:
        super().__init__(value, np.ones(value.shape, np.bool_), through=through, pattern=pattern)
        self.watch = watch
        self.register_buffer("power", torch.zeros_like(self.value))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stage", torch.full((), -1, dtype=torch.int64))

    def observe(self) -> None:
        if self.watch and self.value.grad is not None:
            self.power.mul_(self.MEMORY).addcmul_(self.value.grad, self.value.grad, value=1 - self.MEMORY)
            self.seen.add_(1)

    def settle(self) -> None:
        """The mask is final: pruned weights become zero and get no gradient from here on."""
        self.through = False
        self._clear()

    def saliency(self, kind: str = "fisher") -> Array:
        """What each weight is worth, float32, the weight's shape, pruned ones too: ``fisher``, or ``magnitude`` |w|."""
        if kind == "magnitude" or not int(self.seen):
            return np.abs(self.array())
        mean = self.power / (1 - self.MEMORY ** int(self.seen))
        mean = mean + 1e-3 * mean.mean()  # no weight is worth nothing for want of a gradient in these few steps
        found: Array = (self.value.detach().square() * mean).cpu().numpy()
        return found


class Shared(Parametrization):
    """Codes that stay and a codebook that is trained: the gradient of a centroid is the sum of its members'."""

    codes: Tensor

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.pattern = weight.pattern
        self.register_buffer("codes", torch.from_numpy(weight.codes.astype(np.int64)))
        self.centroids = nn.Parameter(torch.from_numpy(weight.codebook[1:].copy()))

    def forward(self) -> Tensor:
        codebook = torch.cat([self.centroids.new_zeros(1), self.centroids])
        return codebook[self.codes]

    def finish(self) -> Weight:
        centroids = self.centroids.detach().cpu().numpy().astype(np.float32)
        order = np.argsort(centroids, kind="stable")  # training may have led one past another
        place = np.zeros(centroids.size + 1, np.uint8)
        place[1 + order] = np.arange(1, centroids.size + 1)
        codebook = np.concatenate([np.zeros(1, np.float32), centroids[order]])
        return Weight(place[self.codes.cpu().numpy()], codebook, self.pattern)


class Coded(Parametrization):
    """Latent values seen through a codebook: each stands for the shared value of the cell it lies in, and gets that one's
    gradient (straight through), so that in time it may move to another cell. Zeros stay zero.

    Args:
        value: float32, any shape; its zeros are no latents.
        size: of a codebook at most, the zero counted.

    Buffers: ``places`` of the latents, ``centroids``, ``ends`` of their cells, and ``stage`` of the schedule they belong to.
    """

    places: Tensor
    centroids: Tensor
    ends: Tensor
    stage: Tensor

    def __init__(self, value: Array, size: int, pattern: Pattern = "unstructured") -> None:
        super().__init__()
        self.shape, self.pattern = value.shape, pattern
        flat = np.ascontiguousarray(value, np.float32).reshape(-1)
        places = np.flatnonzero(flat)
        self.register_buffer("places", torch.from_numpy(places))
        self.values = nn.Parameter(torch.from_numpy(flat[places]))
        # of a fixed size, so that states of other codebooks can be loaded: cells beyond the last are empty
        self.register_buffer("centroids", torch.zeros(max(1, size - 1)))
        self.register_buffer("ends", torch.full((max(0, size - 2),), torch.inf))
        self.register_buffer("stage", torch.full((), -1, dtype=torch.int64))

    def recode(self, codebook: Array, ends: Array) -> None:
        """Other shared values: ``codebook`` with the zero, ascending but for it, and where their cells end."""
        with torch.no_grad():
            self.centroids[: codebook.size - 1] = torch.from_numpy(codebook[1:]).to(self.centroids)
            self.ends.fill_(torch.inf)
            self.ends[: ends.size] = torch.from_numpy(ends).to(self.ends)

    def decayed(self) -> list[nn.Parameter]:
        return [self.values]

    def latent(self) -> Array:
        """The latent values in the weight's shape."""
        found = np.zeros(int(np.prod(self.shape)), np.float32)
        found[self.places.cpu().numpy()] = self.values.detach().cpu().numpy()
        return found.reshape(self.shape)

    def forward(self) -> Tensor:
        coded = self.centroids[torch.bucketize(self.values.detach(), self.ends)]
        straight = self.values + (coded - self.values).detach()
        return straight.new_zeros(int(np.prod(self.shape))).index_copy(0, self.places, straight).reshape(self.shape)

    def finish(self) -> Weight:
        cells = torch.bucketize(self.values.detach(), self.ends).cpu().numpy()
        used, cells = np.unique(cells, return_inverse=True)  # some cells may have lost all their members
        codes = np.zeros(int(np.prod(self.shape)), np.uint8)
        codes[self.places.cpu().numpy()] = cells + 1
        codebook = np.concatenate([np.zeros(1, np.float32), self.centroids.cpu().numpy()[used]])
        return Weight(codes.reshape(self.shape), codebook, self.pattern)


class Ternary(Parametrization):
    """Latent weights ternarized at t times the largest magnitude, and two scales, all trained.

    The gradients are the paper's (section 3.2, equations 6 to 8): a scale gets the sum over its members, a latent weight that of
    the ternary one times p where it is p, times n where it is -n, and as it is where it is 0. The paper's equation 7 leaves out
    the sign of the members of n; here it is the derivative, as in the authors' code.

    Args:
        value: float32, the weights to begin with.
        t: threshold as a share of the largest magnitude, 0 to 1.
        scales: where p and n begin; the mean magnitude of what each replaces when None, the paper's 1 would drown trained
            weights that are small.
    """

    def __init__(self, value: Array, t: float, scales: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.t = t
        self.value = nn.Parameter(torch.from_numpy(np.array(value, np.float32)))
        p, n = scales if scales is not None else self._means(value)
        self.p, self.n = nn.Parameter(torch.tensor(p)), nn.Parameter(torch.tensor(n))

    def _means(self, value: Array) -> tuple[float, float]:
        limit = self.t * float(np.abs(value).max(initial=0))
        up, down = value[value > limit], value[value < -limit]
        return float(up.mean()) if up.size else 0.0, float(-down.mean()) if down.size else 0.0

    def forward(self) -> Tensor:
        with torch.no_grad():
            limit = self.t * self.value.abs().max()
            up, down = self.value > limit, self.value < -limit
            scale = torch.where(up, self.p, torch.where(down, self.n, torch.ones_like(self.p)))
        scaled = scale * self.value
        # the second term is zero, and has the latent weights' gradients: written so, not as an autograd function, it runs under vmap
        return up * self.p - down * self.n + (scaled - scaled.detach())

    def decayed(self) -> list[nn.Parameter]:
        return [self.value]

    def project(self) -> None:
        with torch.no_grad():
            self.p.clamp_(min=0)
            self.n.clamp_(min=0)

    def finish(self) -> Weight:
        value = self.value.detach().cpu().numpy()
        limit = np.float32(self.t) * np.abs(value).max(initial=0)
        codes = ((value < -limit) + 2 * (value > limit)).astype(np.uint8)
        return Weight(codes, np.array([0.0, -self.n.item(), self.p.item()], np.float32))


def of_layer(layer: Layer, *, release: bool = False) -> Parametrization:
    """The parametrization that a layer's present form asks for: shared where it has a codebook, under a mask where it has
    zeros. ``release`` lets pruned weights grow again (DSD)."""
    if layer.weight is not None:
        return Shared(layer.weight)
    array = layer.array()
    mask = array != 0
    return Plain(array) if release or mask.all() else Plain(array, mask, pattern=layer.pattern)


def store(layer: Layer, parametrization: Parametrization) -> None:
    """Give a layer what training made of it."""
    found = parametrization.finish()
    if isinstance(found, Weight):
        layer.set_weight(found)
    else:
        layer.set_array(found, parametrization.pattern)
