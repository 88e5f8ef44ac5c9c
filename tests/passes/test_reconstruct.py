"""Reconstruction: what it makes of a layer, against rounding, magnitude pruning and k-means, and where too little is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from artifacts import f32, model
from eie.compiler.analysis.calibration import Calibration
from eie.compiler.analysis.capture import capture
from eie.compiler.analysis.fidelity import Runner
from eie.compiler.analysis.form import Form
from eie.compiler.analysis.layers import Layer, find_layers
from eie.compiler.analysis.moments import Moments, Sums
from eie.compiler.coding.secondorder import Settings, assign, geometry
from eie.compiler.errors import UserError
from eie.compiler.ir.graph import Model
from eie.compiler.ir.reader import read
from eie.compiler.passes.cluster import Cluster
from eie.compiler.passes.reconstruct import Reconstruct, reconstruct
from eie.compiler.passes.sparsify import Sparsify

Array = np.ndarray[Any, Any]
GEMM = "g (float[N,{n}] x) => (float[N,{o}] y) {{ y = Gemm <transB=1> (x, w, b) }}"


def correlated(rows: int, n: int, seed: int = 0, mean: float = 0.5) -> Array:
    """Inputs like activations: a few common causes, a mean, energy falling from input to input."""
    rng = np.random.default_rng(seed)
    causes = np.random.default_rng(99).normal(0, 1, (max(2, n // 4), n))
    x = rng.normal(0, 1, (rows, len(causes))) @ causes + 0.3 * rng.normal(0, 1, (rows, n)) + mean
    return (x / (1 + np.arange(n) / n)).astype(np.float32)


def seen(x: Array) -> Moments:
    sums = Sums()
    sums.add(x[None] if x.ndim == 2 else x, len(x))
    found = sums.moments()
    assert found is not None
    return found


def gemm(o: int = 24, n: int = 64) -> tuple[Model, Layer]:
    graph = read(model(GEMM.format(n=n, o=o), w=f32(o, n), b=f32(o)))
    (layer,), _ = find_layers(graph)
    return graph, layer


def output_noise(layer: Layer, after: Array, x: Array, shift: Array | None = None) -> float:
    error = x @ (layer.array() - after).T - (0 if shift is None else shift)
    return float(np.square(error).mean())


def test_columns_to_come_make_up_for_errors() -> None:
    _, layer = gemm()
    x, other = correlated(4000, 64), correlated(4000, 64, seed=1)
    plain = Reconstruct(step=0.5, price=0.0, bias="keep")
    white = plain.fit(layer, Moments.white(64))
    np.testing.assert_allclose(white.weight.dense() / layer.array().std(), np.rint(layer.array() / layer.array().std() / 0.5) * 0.5,
                               atol=1e-5)  # fmt: skip
    fitted = plain.fit(layer, seen(x))
    assert output_noise(layer, fitted.weight.dense(), other) < 0.35 * output_noise(layer, white.weight.dense(), other)


def test_nothing_is_fitted_to_a_few_samples() -> None:
    """A bias that takes up the mean error over one sample has learnt its answer by heart."""
    _, layer = gemm()
    one, many = seen(correlated(1, 64)), seen(correlated(500, 64))
    assert Reconstruct(step=0.5).fit(layer, one).shift is None
    assert Reconstruct(step=0.5).fit(layer, many).shift is not None
    white = Reconstruct(step=0.5, bias="keep").fit(layer, Moments.white(64))
    assert np.array_equal(Reconstruct(step=0.5).fit(layer, one).weight.dense(), white.weight.dense())


def test_the_order_of_columns_is_optimal_brain_surgeons() -> None:
    """One column settled, the rest free: the rest becomes the least-squares optimum."""
    x = correlated(2000, 6).astype(np.float64)
    w = f32(1, 1, 6)
    h = x.T @ x / len(x)
    factors = geometry(seen(x.astype(np.float32)), centred=False, damp=1e-6)
    upper, order = factors[0].upper[0].astype(np.float64), factors[0].order
    h, w = h[np.ix_(order, order)], w[:, :, order]
    error = w[0, 0, 0] - 0.0
    moved = w[0, 0, 1:] - error / upper[0, 0] * upper[0, 1:]
    best = np.linalg.solve(h[1:, 1:], h[1:] @ w[0, 0])
    np.testing.assert_allclose(moved, best, rtol=2e-2, atol=2e-3)


def test_a_price_on_bits_makes_codes_cheaper_and_zeros_more() -> None:
    _, layer = gemm()
    moments = seen(correlated(4000, 64))
    free, priced = (Reconstruct(step=0.6, price=p).fit(layer, moments).weight for p in (0.0, 0.3))
    assert priced.density < free.density
    assert np.abs(priced.dense()).sum() < np.abs(free.dense()).sum()


@pytest.mark.parametrize(("bits", "density"), [(2, 1.0), (3, 0.4), (4, 0.2)])
def test_against_magnitude_and_kmeans(bits: int, density: float) -> None:
    _, layer = gemm()
    x, other = correlated(4000, 64), correlated(4000, 64, seed=1)
    array = layer.array()
    plain = Cluster(bits=bits).share(np.where(Sparsify(density=density).mask(array), array, 0)).dense()
    fit = Reconstruct(bits=bits, density=density).fit(layer, seen(x))
    assert fit.weight.bits <= bits
    assert fit.weight.density <= density + 1e-3
    assert fit.shift is not None
    assert output_noise(layer, fit.weight.dense(), other, fit.shift[0]) < 0.75 * output_noise(layer, plain, other)


@pytest.mark.parametrize("pattern", ["balanced", "block", "2:4", "1:3"])
@pytest.mark.parametrize("op", ["Gemm", "Conv", "ConvTranspose"])
@pytest.mark.parametrize("step", [0.0, 0.4])
def test_patterns_hold(pattern: str, op: str, step: float) -> None:
    if op == "Gemm":
        graph, layer = gemm(32, 48)
        width = 48
    else:
        shape = (16, 8, 3, 3)
        graph = read(model(f"g (float[N,{16 if op == 'ConvTranspose' else 8},a,b] x) => (float[N,16,c,d] y) {{ y = {op} (x, w) }}",
                           w=f32(*shape)))  # fmt: skip
        (layer,), _ = find_layers(graph)
        width = Form.of(layer).width
    options = Reconstruct(pattern=pattern, density=0.5, step=step, bits=4)
    weight = options.fit(layer, seen(correlated(3000, width))).weight
    mask = weight.codes != 0
    if pattern == "balanced":
        rows = mask.reshape(len(mask), -1) if op != "Gemm" else mask
        counts = {int(rows[lane::16].sum()) for lane in range(16)}
        assert len(counts) == 1
        assert weight.pattern == "balanced"
    elif pattern == "block":
        last = np.moveaxis(mask, {"Conv": 1, "ConvTranspose": 0}.get(op, -1), -1)
        blocks = last.reshape(-1, last.shape[-1] // 4, 4).any(axis=-1)
        assert blocks.mean() <= 0.5 + 1e-6
    else:
        n, m = map(int, pattern.split(":"))
        rows = mask.reshape(len(mask), -1)
        groups = rows[:, : rows.shape[1] // m * m].reshape(len(rows), -1, m).sum(axis=-1)
        assert (groups == n).all()
    assert graph


def test_the_bias_takes_up_the_mean() -> None:
    graph, layer = gemm()
    x = correlated(500, 64, mean=3.0)
    before = Runner(graph).run({"x": x})[0]
    reconstruct(graph, [layer], {layer.name: Reconstruct(step=1.0)}, Calibration([{"x": x}]))
    after = Runner(graph).run({"x": x})[0]
    assert np.abs((before - after).mean(0)).max() < 1e-2 * before.std()
    kept, other = gemm()
    reconstruct(kept, [other], {other.name: Reconstruct(step=1.0, bias="keep")}, Calibration([{"x": x}]))
    np.testing.assert_array_equal(kept.graph.constants["b"].array(), f32(24))


def test_a_bias_that_others_read_is_copied() -> None:
    text = "g (float[N,24] x) => (float[N,24] y) { h = Gemm <transB=1> (x, w, b)\n r = Relu(h)\n y = Gemm <transB=1> (r, v, b) }"
    graph = read(model(text, w=f32(24, 24), v=f32(24, 24, seed=1), b=f32(24)))
    layers, _ = find_layers(graph)
    x = correlated(400, 24)
    reconstruct(graph, layers, {la.name: Reconstruct(step=0.5) for la in layers}, Calibration([{"x": x}]))
    first, second = (graph.graph.constants[la.node.inputs[2]].array() for la in layers)
    assert layers[0].node.inputs[2] != layers[1].node.inputs[2]
    assert not np.array_equal(first, f32(24)) and not np.array_equal(first, second)
    Runner(graph).run({"x": x})


def test_later_layers_undo_what_went_wrong_before() -> None:
    text = "g (float[N,32] x) => (float[N,8] y) { h = Gemm <transB=1> (x, w, b)\n r = Relu(h)\n y = Gemm <transB=1> (r, v, c) }"
    x, other = correlated(3000, 32), correlated(1000, 32, seed=5)

    def noise(stages: int) -> float:
        graph = read(model(text, w=f32(64, 32), b=f32(64), v=f32(8, 64), c=f32(8)))
        layers, _ = find_layers(graph)
        before = Runner(graph).run({"x": other})[0]
        options = {layers[0].name: Reconstruct(step=1.2), layers[1].name: Reconstruct(step=0.2)}
        reconstruct(graph, layers, options, Calibration([{"x": x}], 0, stages))
        return float(np.square(before - Runner(graph).run({"x": other})[0]).mean())

    assert noise(2) < 0.9 * noise(1)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_recurrent_weights(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3}[op]
    text = f"g (float[20,1,16] x) => (float[20,1,1,24] y) {{ y = {op} <hidden_size=24> (x, w, r, b) }}"
    weights = {"w": f32(1, gates * 24, 16) * 0.3, "r": f32(1, gates * 24, 24) * 0.3, "b": f32(1, gates * 48) * 0.1}
    feeds = [{"x": correlated(20, 16, seed=s)[:, None]} for s in range(40)]
    test = [{"x": correlated(20, 16, seed=100 + s)[:, None]} for s in range(10)]

    def noise(samples: Sequence[dict[str, Array]]) -> float:
        graph = read(model(text, **weights))
        layers, _ = find_layers(graph)
        before = [Runner(graph).run(f)[0] for f in test]
        reconstruct(graph, layers, {la.name: Reconstruct(step=0.7, price=0.0) for la in layers}, Calibration(samples))
        assert all(la.weight is not None for la in layers)
        return float(
            np.mean([np.square(b - Runner(graph).run(f)[0]).mean() for b, f in zip(before, test, strict=True)])
        )

    assert noise(feeds) < 0.8 * noise([])


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((100, 64), np.float32), "constant"),
        (np.full((100, 64), 3, np.float32), "constant"),
        (correlated(3, 64), "only 3 inputs"),
        (correlated(20, 64), "few for 64 columns"),
        (np.tile(correlated(200, 1), (1, 64)), "200 inputs"),  # all inputs the same
        (correlated(200, 64) * np.float32(1e18), "200 inputs"),
        (correlated(200, 64) * np.float32(1e-18), "200 inputs"),
    ],
)  # fmt: skip
def test_it_is_safe_where_little_is_known(x: Array, says: str) -> None:
    _, layer = gemm()
    fit = Reconstruct(step=0.3).fit(layer, seen(x))
    assert says in fit.note
    dense = fit.weight.dense()
    assert np.isfinite(dense).all()
    assert fit.shift is None or np.isfinite(fit.shift).all()
    scale = float(np.square(x, dtype=np.float64).mean()) or 1.0
    assert (
        output_noise(layer, dense, x.astype(np.float64), None if fit.shift is None else fit.shift[0])
        <= 0.2 * 64 * scale
    )


def test_exact_weights_stay_exact() -> None:
    graph = read(model(GEMM.format(n=64, o=24), w=np.sign(f32(24, 64)), b=f32(24)))
    (layer,), _ = find_layers(graph, lambda name: True)
    fit = Reconstruct(bits=4).fit(layer, seen(correlated(300, 64)))
    np.testing.assert_array_equal(fit.weight.dense(), layer.array())
    assert fit.note == "shared already"


def test_it_is_deterministic_and_says_what_it_changed() -> None:
    found = []
    for _ in range(2):
        graph, layer = gemm()
        outcome = reconstruct(
            graph, [layer], {layer.name: Reconstruct(step=0.5)}, Calibration([{"x": correlated(300, 64)}])
        )
        assert outcome.changed
        (entry,) = outcome.ledger
        assert "300 inputs" in entry.action and 0 < entry.error < 0.2 and 0 < entry.kept < 1
        found.append(layer.array().tobytes())
    assert found[0] == found[1]


def test_no_bits_for_levels_that_do_not_exist() -> None:
    moments = seen(correlated(100, 64))
    codes = assign(
        f32(1, 4, 64), geometry(moments, centred=False, damp=0.02), Settings(np.array([-1.0, 0.0, 1.0]), 0.1)
    )
    assert set(np.unique(codes)) <= {0, 1, 2}


def test_wrong_options() -> None:
    with pytest.raises(UserError, match="pattern"):
        Reconstruct(pattern="5:4")


def test_convolutions_with_groups() -> None:
    graph = read(model("g (float[N,8,12,12] x) => (float[N,16,a,b] y) { y = Conv <group=4,pads=[1,1,1,1]> (x, w, b) }",
                       w=f32(16, 2, 3, 3), b=f32(16)))  # fmt: skip
    (layer,), _ = find_layers(graph)
    rng = np.random.default_rng(0)
    maps = [np.cumsum(rng.normal(0, 1, (1, 8, 12, 12)), axis=-1).astype(np.float32) for _ in range(12)]
    feeds, test = [{"x": m} for m in maps[:8]], maps[8:]
    before = [Runner(graph).run({"x": m})[0] for m in test]
    white = Reconstruct(step=0.5, price=0.0).fit(layer, Moments.white(18)).weight
    fit = Reconstruct(step=0.5, price=0.0).fit(layer, capture(graph, [layer], feeds)[layer.name])
    noises = []
    for weight in (fit.weight, white):
        layer.set_weight(weight)
        noises.append(
            float(
                np.mean(
                    [np.square(b - Runner(graph).run({"x": m})[0]).mean() for b, m in zip(before, test, strict=True)]
                )
            )
        )
    assert noises[0] < 0.7 * noises[1]
