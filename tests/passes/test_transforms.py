"""Sparsify, cluster, ternarize, encode: what they make of a weight, against the papers and brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper, parser

from eie.compiler.analysis.layers import Layer, find_layers
from eie.compiler.coding.codebook import fit_codebook, nearest
from eie.compiler.errors import UserError
from eie.compiler.ir.graph import Model
from eie.compiler.ir.printer import to_text
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import verify
from eie.compiler.ir.writer import to_proto
from eie.compiler.passes.base import Pass, PassResult, parse_pipeline
from eie.compiler.passes.cluster import Cluster
from eie.compiler.passes.encode import Encode
from eie.compiler.passes.sparsify import Sparsify, largest, relative_error
from eie.compiler.passes.ternarize import Ternarize
from eie.runtime.weight import Weight

Array = npt.NDArray[Any]


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def net(dtype: Any = np.float32) -> Model:
    """A convolution, three matrices (one stored [in, out]), an LSTM; four orientations and shapes of weights."""
    kind = {np.float32: "float", np.float16: "float16"}[dtype]
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> main ({kind}[N,4,10] x) => ({kind}[M,12] y) {{
        [first] a = Conv(x, conv) [second] b = MatMul(a, matrix) [rnn] c, h = LSTM<hidden_size=6>(b, w, r)
        [gemm] d = Gemm<transB=1>(e, g) e = Reshape(c, k) [last] y = Gemm(d, f) }}"""
    )
    shapes = {"conv": (6, 4, 3), "matrix": (8, 20), "w": (1, 24, 20), "r": (1, 24, 6), "g": (16, 6), "f": (16, 12)}
    for i, (name, shape) in enumerate(shapes.items()):
        proto.graph.initializer.append(numpy_helper.from_array(floats(*shape, seed=i, dtype=dtype), name))
    proto.graph.initializer.append(numpy_helper.from_array(np.int64([-1, 6]), "k"))
    return read(proto)


def layers(model: Model) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(model)[0]}


NAMES = ["first", "second", "rnn.W", "rnn.R", "gemm", "last"]


def apply(model: Model, step: Pass, select: Callable[[Layer], bool] = lambda layer: True) -> PassResult:
    """Run a pass; ``changed`` must be true to what it did, a second run do nothing, and the graph stay valid."""
    before = to_proto(model).SerializeToString(deterministic=True) + to_text(model).encode()
    outcome = step.run(model, select)
    verify(model)
    after = to_proto(model).SerializeToString(deterministic=True) + to_text(model).encode()
    assert outcome.changed == (before != after)
    again = step.run(model, select)
    assert not again.changed
    assert to_proto(model).SerializeToString(deterministic=True) + to_text(model).encode() == after
    assert [e.layer for e in outcome.ledger] == [n for n in layers(model) if select(layers(model)[n])]
    return outcome


PASSES = [
    "sparsify{density=0.3}",
    "sparsify{threshold=0.7}",
    "sparsify{density=0.25,pattern=balanced,lanes=4}",
    "sparsify{density=0.5,pattern=block}",
    "sparsify{pattern=2:4}",
    "cluster{bits=3}",
    "cluster{bits=8}",
    "cluster{bits=2,init=linear}",
    "cluster{bits=4,init=density}",
    "cluster{bits=4,init=forgy,seed=3}",
    "ternarize",
    "ternarize{t=0.3,ends=too}",
    "encode",
]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("text", PASSES)
def test_every_pass_on_every_kind_of_layer(text: str, dtype: Any) -> None:
    step = parse_pipeline(text)[0]
    assert str(step) == text
    model = net(dtype)
    originals = {name: layer.array() for name, layer in layers(model).items()}
    assert list(originals) == NAMES
    outcome = apply(model, step)
    for entry in outcome.ledger:
        layer = layers(model)[entry.layer]
        assert (entry.action == "") == (entry.reason != "")
        assert layer.constant.array().dtype == dtype
        if entry.action and step.name != "encode":
            now = layer.weight.dense() if layer.weight is not None else layer.array()
            assert entry.kept == pytest.approx(np.count_nonzero(now) / now.size)
            assert entry.error == pytest.approx(relative_error(originals[entry.layer], now), abs=1e-3)


@pytest.mark.parametrize("text", [p for p in PASSES if p != "encode"])
def test_only_the_selected_layers(text: str) -> None:
    model = net()
    before = {name: layer.array() for name, layer in layers(model).items()}
    apply(model, parse_pipeline(text)[0], lambda layer: layer.name == "second")
    for name, layer in layers(model).items():
        touched = layer.weight is not None or not np.array_equal(layer.array(), before[name])
        assert touched == (name == "second"), name


@pytest.mark.parametrize("text", ["sparsify", "sparsify{density=1}", "encode"])
def test_what_changes_nothing_says_so(text: str) -> None:
    assert not apply(net(), parse_pipeline(text)[0]).changed


# -- sparsify -------------------------------------------------------------------------------------------------------------------

WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9),
    elements=st.floats(-4, 4, width=16).map(lambda v: v or 0.0),
)
DENSITY = st.floats(0, 1)
OPS = st.sampled_from(["Gemm", "LSTM", "Conv", "ConvTranspose"])


def rows_of(array: Array, op: str) -> Array:
    """A row an output: kernels as the matrix [out, in/group * k] they run as, others by their last axis."""
    return array.reshape(len(array), -1) if op.startswith("Conv") else array.reshape(-1, array.shape[-1])


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, DENSITY)
def test_exactly_the_density_and_the_largest(weight: Array, density: float) -> None:
    mask = Sparsify(density=density).mask(weight)
    assert mask.shape == weight.shape
    assert np.count_nonzero(mask) == round(density * weight.size)
    if mask.any() and not mask.all():
        assert np.abs(weight)[mask].min() >= np.abs(weight)[~mask].max()


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.floats(0.01, 3))
def test_threshold_is_in_standard_deviations(weight: Array, threshold: float) -> None:
    """Deep Compression, section 2: quality parameter times the layer's standard deviation."""
    mask = Sparsify(threshold=threshold, density=0.1).mask(weight)
    np.testing.assert_array_equal(mask, np.abs(weight) >= threshold * weight.std())


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, OPS, DENSITY, st.integers(1, 12))
def test_every_lane_keeps_the_same(weight: Array, op: str, density: float, lanes: int) -> None:
    """ESE, section 3.2: row r belongs to lane r mod lanes. Rows are those of the matrix the layer runs as."""
    rows = rows_of(Sparsify(density=density, pattern="balanced", lanes=lanes).mask(weight, op), op)
    used = min(lanes, len(rows))
    counts = {int(np.count_nonzero(rows[lane::used])) for lane in range(used)}
    assert len(counts) == 1 or density >= 1
    if density < 1:
        magnitude = np.abs(weight).reshape(rows.shape)
        for lane in range(used):
            part, kept = magnitude[lane::used], rows[lane::used]
            assert not kept.any() or kept.all() or part[kept].min() >= part[~kept].max()


def test_balanced_is_the_density_where_lanes_are_equal() -> None:
    mask = Sparsify(density=0.25, pattern="balanced", lanes=8).mask(floats(32, 40))
    assert [np.count_nonzero(mask[lane::8]) for lane in range(8)] == [40] * 8


def by_input(array: Array, axis: int) -> Array:
    """A row for each place that has inputs: neighbours along the input are neighbours in it."""
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 90), st.integers(1, 70), st.floats(0.01, 0.99))
def test_balanced_windows_keep_as_many_in_every_row(out: int, inner: int, window: int, density: float) -> None:
    weight = floats(out, inner)
    mask = Sparsify(density=density, pattern="balanced", window=window).mask(weight)
    for begin in range(0, inner, window):
        part, magnitude = mask[:, begin : begin + window], np.abs(weight[:, begin : begin + window])
        kept = set(part.sum(axis=1))
        assert kept == {round(density * (begin + part.shape[1])) - round(density * begin)}
        for row, size in zip(part, magnitude, strict=True):
            assert not row.any() or row.all() or size[row].min() >= size[~row].max()
    assert abs(int(mask.sum()) - round(density * inner) * out) == 0


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, OPS, DENSITY)
def test_blocks_of_four_along_the_input(weight: Array, op: str, density: float) -> None:
    if density >= 1:
        density = 0.99
    axis = {"Conv": 1, "ConvTranspose": 0}.get(op, weight.ndim - 1)
    rows = by_input(Sparsify(density=density, pattern="block").mask(weight, op), axis)
    blocks = [rows[:, i : i + 4] for i in range(0, rows.shape[1], 4)]
    assert all((b.all(axis=1) | ~b.any(axis=1)).all() for b in blocks)
    assert sum(np.count_nonzero(b.any(axis=1)) for b in blocks) == round(density * len(rows) * len(blocks))
    energy = np.stack([np.square(by_input(weight, axis)[:, i : i + 4]).sum(axis=1) for i in range(0, rows.shape[1], 4)])
    kept = np.stack([b.any(axis=1) for b in blocks])
    assert not kept.any() or kept.all() or energy[kept].min() >= energy[~kept].max() * (1 - 1e-6)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, OPS, st.tuples(st.integers(1, 8), st.integers(1, 8)).map(sorted))
def test_n_of_every_m(weight: Array, op: str, n_m: list[int]) -> None:
    n, m = n_m
    rows = rows_of(Sparsify(pattern=f"{n}:{m}").mask(weight, op), op)
    magnitude = rows_of(np.abs(weight), op)
    for start in range(0, rows.shape[1], m):
        kept, part = rows[:, start : start + m], magnitude[:, start : start + m]
        assert (np.count_nonzero(kept, axis=1) == min(n, part.shape[1])).all()
        assert (np.where(kept, part, 9).min(axis=1) >= np.where(kept, -9, part).max(axis=1)).all()


def test_patterns_run_along_the_input_of_a_stored_transpose() -> None:
    """A MatMul's constant is [in, out]; the pattern is that of [out, in]."""
    model = net()
    apply(model, Sparsify(pattern="2:4"))
    stored = model.graph.constants["matrix"].array()
    groups = np.count_nonzero(stored.T.reshape(20, 2, 4), axis=2)
    np.testing.assert_array_equal(groups, np.full((20, 2), 2))


def test_ties_are_broken_by_place_and_zeros_are_never_preferred() -> None:
    np.testing.assert_array_equal(largest(np.ones(5), 3), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(largest(np.array([0, 2, 0, 2]), 2), [0, 1, 0, 1])
    assert not largest(np.ones(4), 0).any()
    assert largest(np.ones(4), 4).all()


def test_sparsify_keeps_shared_weights_shared() -> None:
    model = net()
    Cluster(bits=4).run(model)
    books = {n: la.weight.codebook for n, la in layers(model).items() if la.weight is not None}
    outcome = apply(model, Sparsify(density=0.3, pattern="balanced", lanes=2))
    assert outcome.changed
    for name, layer in layers(model).items():
        assert layer.weight is not None
        np.testing.assert_array_equal(layer.weight.codebook, books[name])
        assert layer.weight.pattern == "balanced"


@pytest.mark.parametrize(
    "options",
    [
        "pattern=3:2",
        "pattern=0:4",
        "pattern=rows",
        "density=1.5",
        "density=-0.1",
        "density=nan",
        "lanes=0",
        "lanes=1.5",
        "threshold=-1",
    ],
)
def test_options_that_are_refused(options: str) -> None:
    with pytest.raises(UserError):
        parse_pipeline(f"sparsify{{{options}}}")


# -- cluster ---------------------------------------------------------------------------------------------------------------------


def cost(values: Array, centroids: Array) -> float:
    values = values.astype(np.float64)
    return float(np.square(values[:, None] - centroids.astype(np.float64)[None]).min(axis=1).sum())


def brute_force(values: Array, k: int) -> float:
    """The least cost over all ways to cut the sorted values into k runs."""
    values = np.sort(values.astype(np.float64))
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), min(k, len(values)) - 1):
        runs = np.split(values, cuts)
        best = min(best, sum(float(np.square(r - r.mean()).sum()) for r in runs))
    return best


VALUES = st.lists(st.floats(-3, 3, width=16).filter(bool), min_size=1, max_size=9)


@settings(max_examples=120, deadline=None)
@given(VALUES, st.integers(1, 3))
def test_the_optimum(values: list[float], bits: int) -> None:
    given_values = np.float32(values)
    k = (1 << bits) - 1
    book = fit_codebook(given_values, bits)
    assert book.size <= k
    assert (np.diff(book) > 0).all()
    assert (book != 0).all()
    assert cost(given_values, book) <= brute_force(given_values, k) * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("init", ["linear", "density", "forgy"])
@pytest.mark.parametrize("kind", ["normal", "heavy", "two heaps", "few"])
def test_never_worse_than_a_start_of_deep_compression(bits: int, init: str, kind: str) -> None:
    rng = np.random.default_rng(bits)
    values = {
        "normal": rng.standard_normal(3000),
        "heavy": rng.standard_t(2, 3000),
        "two heaps": np.concatenate([rng.normal(-3, 0.1, 1500), rng.normal(3, 0.1, 1500)]),
        "few": rng.choice(np.linspace(-1, 1, 40), 3000),
    }[kind].astype(np.float32)
    values = values[values != 0]
    started = fit_codebook(values, bits, init=init, seed=7)
    assert started.size <= (1 << bits) - 1
    assert (np.diff(started) > 0).all()
    assert cost(values, fit_codebook(values, bits)) <= cost(values, started) * (1 + 1e-6) + 1e-9


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(1, 8), st.sampled_from(["optimal", "linear", "density", "forgy"]))
def test_zeros_stay_and_codes_fit(array: Array, bits: int, init: str) -> None:
    weight = Cluster(bits=bits, init=init).share(array)
    assert weight.codebook[0] == 0
    assert weight.codebook.size <= 1 << bits
    assert not weight.codes[array == 0].any()
    dense = weight.dense()
    assert (dense[array == 0] == 0).all()
    if np.unique(array[array != 0]).size <= (1 << bits) - 1:
        np.testing.assert_array_equal(dense, array)


@pytest.mark.parametrize("init", ["optimal", "linear", "density"])
def test_a_shared_value_may_come_out_as_zero(init: str) -> None:
    """Half of the weights just below, half just above zero: their mean is zero, and zero is code 0's."""
    array = np.float32([[-3, -2, -0.1, 0.1, 2, 3, 0, 0]])
    weight = Cluster(bits=2, init=init).share(array)
    np.testing.assert_allclose(weight.dense(), [[-2.5, -2.5, 0, 0, 2.5, 2.5, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(weight.codes[0, 2:4], 2)
    assert Cluster(bits=1).share(np.float32([[-1, 1]])).dense().shape == (1, 2)


def test_every_weight_takes_its_nearest_value() -> None:
    array = floats(40, 50)
    weight = Cluster(bits=4).share(array)
    book = weight.codebook[1:]
    np.testing.assert_array_equal(weight.dense(), book[np.abs(array[..., None] - book).argmin(axis=2)])
    np.testing.assert_array_equal(nearest(np.float32([1, 2, 4]), np.float32([-9, 1.5, 1.6, 3, 9])), [0, 0, 1, 1, 2])


def test_more_bits_are_never_worse() -> None:
    values = floats(4000)
    costs = [cost(values, fit_codebook(values, bits)) for bits in range(1, 9)]
    assert all(b < a for a, b in itertools.pairwise(costs))


def test_merging_many_values_first_costs_little() -> None:
    values = np.random.default_rng(1).standard_t(3, 60_000).astype(np.float32)
    exact, merged = (fit_codebook(values, 5, bins=bins) for bins in (1 << 20, 4096))
    assert cost(values, merged) <= cost(values, exact) * 1.001


def test_forgy_follows_its_seed() -> None:
    values = floats(500)
    one, same, other = (fit_codebook(values, 4, init="forgy", seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_what_is_shared_already_stays() -> None:
    model = net()
    Ternarize(ends="too").run(model)
    outcome = apply(model, Cluster(bits=4))
    assert not outcome.changed
    assert {e.action for e in outcome.ledger} == {"shared already"}


def test_fewer_bits_share_again() -> None:
    model = net()
    Cluster(bits=6).run(model)
    assert apply(model, Cluster(bits=3)).changed
    assert all(la.weight is not None and la.weight.codebook.size == 8 for la in layers(model).values())


def test_the_pattern_of_what_was_pruned_is_kept_through_sharing() -> None:
    model = net()
    Cluster(bits=6).run(model)
    Sparsify(pattern="2:4").run(model)
    Cluster(bits=3).run(model)
    assert {la.weight.pattern for la in layers(model).values() if la.weight is not None} == {"n:m"}


# -- ternarize ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(WEIGHTS, st.floats(0, 1))
def test_thresholds_and_scales_of_ttq(array: Array, t: float) -> None:
    """TTQ, section 3.1: beyond t max|w| to either side; the scales that are nearest in least squares."""
    weight = Ternarize(t=t).ternary(array)
    limit = t * float(np.abs(array).max())
    up, down = array > limit, array < -limit
    dense = weight.dense()
    assert weight.codebook.shape == (3,)
    assert (dense[~up & ~down] == 0).all()
    for side in (up, down):
        if side.any():
            assert np.unique(dense[side]).size == 1
            assert dense[side][0] == pytest.approx(array[side].astype(np.float64).mean(), rel=1e-5)
    assert not up.any() or weight.codebook[2] > 0
    assert not down.any() or weight.codebook[1] < 0


def test_the_first_and_the_last_layer_are_kept() -> None:
    model = net()
    outcome = apply(model, Ternarize())
    assert [e.layer for e in outcome.ledger if e.reason] == ["first", "last"]
    assert [n for n, la in layers(model).items() if la.weight is None] == ["first", "last"]
    assert [e for e in apply(net(), Ternarize(ends="too")).ledger if e.reason] == []


def test_all_zero_and_one_sided_weights() -> None:
    for array in (np.zeros((4, 5), np.float32), np.abs(floats(4, 5)), -np.abs(floats(4, 5))):
        weight = Ternarize().ternary(array)
        assert isinstance(weight, Weight)
        assert np.isfinite(weight.codebook).all()
        assert (np.sign(weight.dense()) * np.sign(array) >= 0).all()


# -- encode ------------------------------------------------------------------------------------------------------------------------


def test_encode_says_what_it_stores() -> None:
    model = net()
    Cluster(bits=4).run(model, lambda layer: layer.name == "gemm")
    entries = {e.layer: e for e in apply(model, Encode(codec="huffman")).ledger}
    assert entries["gemm"].action == "stored as huffman"
    assert all("not shared" in e.reason for n, e in entries.items() if n != "gemm")


@pytest.mark.parametrize("options", ["index_bits=1", "index_bits=9", "codec=zip", "codec=context,index_bits=4"])
def test_encode_options_that_are_refused(options: str) -> None:
    with pytest.raises(UserError):
        parse_pipeline(f"encode{{{options}}}")


# -- one after the other -------------------------------------------------------------------------------------------------------------


def test_pruned_weights_stay_pruned_through_sharing() -> None:
    model = net()
    apply(model, Sparsify(density=0.2))
    zero = {n: la.array() == 0 for n, la in layers(model).items()}
    apply(model, Cluster(bits=3))
    for name, layer in layers(model).items():
        assert layer.weight is not None
        assert not layer.weight.codes[zero[name]].any()


def test_a_shared_tensor_is_transformed_once() -> None:
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> main (float[N,16] x) => (float[N,16] y) {
        [one] a = MatMul(x, w) [two] b = MatMul(a, w) [three] y = Gemm<transB=1>(b, w) }"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(floats(16, 16), "w"))
    model = read(proto)
    outcome = apply(model, Sparsify(density=0.5))
    assert [e.layer for e in outcome.ledger] == ["one"]
    assert [n.label for n in layers(model)["one"].users] == ["one", "two", "three"]
    assert isinstance(to_proto(model), onnx.ModelProto)


@pytest.mark.parametrize("bits", [2, 5])
def test_the_largest_floats_are_clustered(bits: int) -> None:
    values = (np.random.default_rng(0).uniform(0.5, 1, 500) * np.finfo(np.float32).max).astype(np.float32)
    shared = Cluster(bits=bits).share(np.where(np.arange(500) % 2, values, -values))
    assert np.isfinite(shared.codebook).all()
    errors = np.abs(shared.dense().astype(np.float64) - np.where(np.arange(500) % 2, values, -values))
    assert errors.max() < np.finfo(np.float32).max / 2  # none of them went to a far centroid
