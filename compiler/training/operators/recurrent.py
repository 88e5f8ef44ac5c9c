"""RNN, GRU and LSTM with all their options.

What torch has a fused form of (no clip, no peepholes, whole sequences, the usual activations) runs there; the rest step by
step. Gates in ONNX's order: i o f c for LSTM, z r h for GRU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .base import Call, Tensor, operator

Activation = Callable[[Tensor], Tensor]
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_ALPHA = {"LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "Elu": 1.0, "HardSigmoid": 0.2, "ScaledTanh": 1.0, "Affine": 1.0}
_BETA = {"HardSigmoid": 0.5, "ScaledTanh": 1.0, "Affine": 0.0}


def _activation(name: str, alpha: float, beta: float) -> Activation:
    known: dict[str, Activation] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softsign": F.softsign,
        "softplus": F.softplus,
        "leakyrelu": lambda x: F.leaky_relu(x, alpha),
        "elu": lambda x: F.elu(x, alpha),
        "thresholdedrelu": lambda x: torch.where(x > alpha, x, torch.zeros_like(x)),
        "hardsigmoid": lambda x: torch.clamp(alpha * x + beta, 0, 1),
        "scaledtanh": lambda x: alpha * torch.tanh(beta * x),
        "affine": lambda x: alpha * x + beta,
    }
    return known[name.lower()]


@dataclass
class _Layer:
    """One recurrent operator, its inputs in one layout: x [time, batch, input], states [directions, batch, hidden]."""

    op: str
    x: Tensor
    w: Tensor
    r: Tensor
    bias: Tensor
    lengths: Tensor | None
    h: Tensor
    c: Tensor | None
    peephole: Tensor | None
    reverse: list[bool]
    activations: list[list[Activation]]
    clip: float
    coupled: bool
    before: bool
    plain: bool

    @property
    def hidden(self) -> int:
        return int(self.r.shape[2])


@operator("RNN", "GRU", "LSTM")
def recurrent(call: Call, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    layer = _read(call, x, w, r, [*rest, *(None,) * 5])
    y, h, c = _fused(layer) if layer.plain and not call.scope.host.batched else _stepped(layer)
    if int(call.get("layout", 0)):
        y, h = y.permute(2, 0, 1, 3), h.transpose(0, 1)
        c = None if c is None else c.transpose(0, 1)
    return (y, h) if c is None else (y, h, c)


def _read(call: Call, x: Tensor, w: Tensor, r: Tensor, rest: Sequence[Tensor | None]) -> _Layer:
    op, directions, hidden = call.node.op, w.shape[0], r.shape[2]
    bias, lengths, h, c, peephole = rest[:5]
    if int(call.get("layout", 0)):
        x = x.transpose(0, 1)
        h = None if h is None else h.transpose(0, 1)
        c = None if c is None else c.transpose(0, 1)
    names = call.get("activations") or _DEFAULTS[op] * directions
    names = [n.decode() if isinstance(n, bytes) else n for n in names]
    alphas, betas = list(call.get("activation_alpha") or []), list(call.get("activation_beta") or [])
    kinds = []
    for name in names:
        alpha = alphas.pop(0) if name in _ALPHA and alphas else _ALPHA.get(name, 0.0)
        beta = betas.pop(0) if name in _BETA and betas else _BETA.get(name, 0.0)
        kinds.append(_activation(name, alpha, beta))
    each = len(_DEFAULTS[op])
    zeros = torch.zeros(directions, x.shape[1], hidden, dtype=x.dtype, device=x.device)
    direction = call.get("direction", "forward")
    clip, coupled = float(call.get("clip", 0.0)), bool(call.get("input_forget", 0))
    before = not call.get("linear_before_reset", 0)
    usual = [n.lower() for n in names] == [n.lower() for n in _DEFAULTS[op] * directions]
    plain = usual and not clip and not coupled and peephole is None and lengths is None
    return _Layer(
        op, x, w, r,
        bias if bias is not None else torch.zeros(directions, 2 * w.shape[1], dtype=x.dtype, device=x.device),
        lengths, zeros if h is None else h, (zeros if c is None else c) if op == "LSTM" else None, peephole,
        [False, True] if direction == "bidirectional" else [direction == "reverse"],
        [kinds[d * each : (d + 1) * each] for d in range(directions)],
        clip, coupled, before, plain and not (op == "GRU" and before) and x.is_floating_point() and x.numel() > 0,
    )  # fmt: skip


_ORDER = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}  # torch's gates, by their place in ONNX


def _fused(layer: _Layer) -> tuple[Tensor, Tensor, Tensor | None]:
    """torch's own layer, one direction at a time."""
    outputs, hs, cs = [], [], []
    learns = torch.is_grad_enabled()  # cuDNN keeps what gradients need only then
    for d, reverse in enumerate(layer.reverse):
        wb, rb = layer.bias[d].chunk(2)
        parameters = [_reordered(layer, v) for v in (layer.w[d], layer.r[d], wb, rb)]
        x = layer.x.flip(0) if reverse else layer.x
        h = layer.h[d : d + 1].contiguous()
        if layer.op == "LSTM":
            assert layer.c is not None
            y, last, c = torch.lstm(
                x, [h, layer.c[d : d + 1].contiguous()], parameters, True, 1, 0.0, learns, False, False
            )
            cs.append(c[0])
        else:
            run: Any = torch.gru if layer.op == "GRU" else torch.rnn_tanh
            y, last = run(x, h, parameters, True, 1, 0.0, learns, False, False)
        outputs.append(y.flip(0) if reverse else y)
        hs.append(last[0])
    return torch.stack(outputs, 1), torch.stack(hs), torch.stack(cs) if cs else None


def _reordered(layer: _Layer, value: Tensor) -> Tensor:
    parts = value.chunk(_GATES[layer.op])
    return torch.cat([parts[i] for i in _ORDER[layer.op]])


def _stepped(layer: _Layer) -> tuple[Tensor, Tensor, Tensor | None]:
    """Step by step, every option."""
    time, outputs, hs, cs = layer.x.shape[0], [], [], []
    for d, reverse in enumerate(layer.reverse):
        x = _reversed(layer.x, layer.lengths) if reverse else layer.x
        wb, rb = layer.bias[d].chunk(2)
        given = x @ layer.w[d].T + wb
        h = layer.h[d]
        c = layer.c[d] if layer.c is not None else torch.zeros_like(h)
        peephole = layer.peephole[d].chunk(3) if layer.peephole is not None else None
        found = []
        for step in range(time):
            nh, nc = _CELLS[layer.op](layer, d, given[step], h, c, rb, peephole)
            if layer.lengths is not None:
                live = (step < layer.lengths)[:, None]
                h, c = torch.where(live, nh, h), torch.where(live, nc, c)
                found.append(torch.where(live, nh, torch.zeros_like(nh)))
            else:
                h, c = nh, nc
                found.append(nh)
        y = torch.stack(found) if found else layer.x.new_zeros(0, *h.shape)
        outputs.append(_reversed(y, layer.lengths) if reverse else y)
        hs.append(h)
        cs.append(c)
    return torch.stack(outputs, 1), torch.stack(hs), torch.stack(cs) if layer.op == "LSTM" else None


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The steps in reverse, each sequence as long as it is."""
    if lengths is None:
        return x.flip(0)
    at = torch.arange(x.shape[0], device=x.device)[:, None]
    rows = torch.where(at < lengths[None], lengths[None] - 1 - at, at)
    return x[rows, torch.arange(x.shape[1], device=x.device)[None]]


def _clipped(layer: _Layer, x: Tensor) -> Tensor:
    return x.clamp(-layer.clip, layer.clip) if layer.clip > 0 else x


def _rnn(layer: _Layer, d: int, x: Tensor, h: Tensor, c: Tensor, rb: Tensor, peephole: Any) -> tuple[Tensor, Tensor]:
    return layer.activations[d][0](_clipped(layer, x + h @ layer.r[d].T + rb)), c


def _gru(layer: _Layer, d: int, x: Tensor, h: Tensor, c: Tensor, rb: Tensor, peephole: Any) -> tuple[Tensor, Tensor]:
    f, g = layer.activations[d]
    n, r = layer.hidden, layer.r[d]
    z, reset = (x[:, : 2 * n] + h @ r[: 2 * n].T + rb[: 2 * n]).chunk(2, 1)
    z, reset = f(_clipped(layer, z)), f(_clipped(layer, reset))
    held = (reset * h) @ r[2 * n :].T + rb[2 * n :] if layer.before else reset * (h @ r[2 * n :].T + rb[2 * n :])
    new = g(_clipped(layer, x[:, 2 * n :] + held))
    return (1 - z) * new + z * h, c


def _lstm(layer: _Layer, d: int, x: Tensor, h: Tensor, c: Tensor, rb: Tensor, peephole: Any) -> tuple[Tensor, Tensor]:
    f, g, k = layer.activations[d]
    i, o, forget, cell = (x + h @ layer.r[d].T + rb).chunk(4, 1)
    if peephole is not None:
        i, forget = i + peephole[0] * c, forget + peephole[2] * c
    i = f(_clipped(layer, i))
    forget = 1 - i if layer.coupled else f(_clipped(layer, forget))
    new = forget * c + i * g(_clipped(layer, cell))
    if peephole is not None:
        o = o + peephole[1] * new
    return f(_clipped(layer, o)) * k(new), new


_CELLS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
