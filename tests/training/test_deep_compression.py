"""Deep Compression to a total budget: saliency, splicing, bytes, prices of codes, shifted samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper

from eie.compiler import Recipe, optimize
from eie.compiler.analysis.layers import find_layers
from eie.compiler.coding.footprint import CLOSE, most_salient, stored_bytes
from eie.compiler.coding.priced import share_within
from eie.compiler.errors import UserError
from eie.compiler.ir.reader import read
from eie.compiler.passes.cluster import Cluster
from eie.compiler.passes.prune import Prune, _Ramp
from eie.compiler.training.augment import pictures, shifted
from eie.compiler.training.data import load
from eie.compiler.training.parametrization import Coded, Weighed
from eie.runtime.format import encode
from eie.runtime.weight import Weight

from .conftest import Arrays, floats, model

RECIPE = """
passes = ["prune", "share", "retrain", "fold-units", "encode"]
[train]
epochs = 8
optimizer = "adam"
lr = 0.01
batch = 50
seed = SEED
[prune]
ratio = 16
ramp = 0.6
steps = 12
exchange = 0.2
[share]
ratio = 16
epochs = 2
refits = 3
[retrain]
epochs = 2
"""


def recipe(seed: int = 0) -> Recipe:
    return Recipe.parse(RECIPE.replace("SEED", str(seed)), "test")


def sparse(*shape: int, density: float, seed: int = 0) -> npt.NDArray[np.float32]:
    keep = np.random.default_rng(seed + 100).random(shape) < density
    return np.where(keep, floats(*shape, seed=seed), np.float32(0))


# -- what a weight is worth ------------------------------------------------------------------------------------------------


def test_saliency_is_the_squared_weight_times_the_mean_squared_gradient() -> None:
    weighed = Weighed(floats(3, 4))
    gradients = [floats(3, 4, seed=s) for s in (1, 2, 3)]
    for gradient in gradients:
        weighed.value.grad = torch.from_numpy(gradient)
        weighed.observe()
    memory = Weighed.MEMORY
    shares = np.array([memory**2, memory, 1.0]) * (1 - memory) / (1 - memory**3)
    mean = sum(s * np.square(g) for s, g in zip(shares, gradients, strict=True))
    expected = np.square(floats(3, 4)) * (mean + 1e-3 * mean.mean())
    np.testing.assert_allclose(weighed.saliency(), expected, rtol=1e-4)
    np.testing.assert_array_equal(weighed.saliency("magnitude"), np.abs(floats(3, 4)))


def ramp_over(value: npt.NDArray[np.float32], splice: str) -> tuple[_Ramp, Weighed]:
    weighed = Weighed(value, through=splice == "yes")
    step = Prune(density=0.25, splice=splice, ramp=0.5, steps=4, exchange=0.25, saliency="magnitude")
    layer = next(la for la in find_layers(read(one_matrix(value)))[0])
    return _Ramp(step, {layer: (step, weighed)}), weighed


def one_matrix(value: npt.NDArray[np.float32]) -> onnx.ModelProto:
    types = f"(float[N,{value.shape[1]}] x) => (float[N,{len(value)}] y)"
    found = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> m {types} {{ y = Gemm<transB=1>(x, w) }}'
    )
    found.graph.initializer.append(numpy_helper.from_array(value, "w"))
    return found


@pytest.mark.parametrize("splice", ["yes", "no"])
def test_pruned_weights_come_back_only_when_spliced(splice: str) -> None:
    value = 1 + np.arange(128, dtype=np.float32).reshape(8, 16)
    ramp, weighed = ramp_over(value, splice)
    ramp(0.0)
    assert weighed.mask is not None and bool(weighed.mask.all())
    ramp(0.499)
    assert weighed.mask.float().mean() < 0.3 and not weighed.mask[0, 0]
    loss = (weighed() * 1000.0).sum()
    loss.backward()
    assert weighed.value.grad is not None
    assert (weighed.value.grad[0, 0] != 0) == (splice == "yes")
    with torch.no_grad():
        weighed.value[0, 0] += 500.0  # what the optimizer would make of it
    weighed.project()
    ramp(0.7)
    assert bool(weighed.mask[0, 0]) == (splice == "yes")
    ramp(0.76)
    ramp(1.0)
    settled = weighed.mask.clone()
    assert int(settled.sum()) == 32
    with torch.no_grad():
        weighed.value[1, 1] += 5000.0
    ramp(1.0)
    assert torch.equal(weighed.mask, settled)
    assert np.count_nonzero(weighed.finish()) == 32


# -- bytes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [600.0, 3000.0, 1e6])
def test_the_most_salient_weights_fill_the_budget(wanted: float) -> None:
    saliency = [np.square(floats(64, 100)), 3 * np.square(floats(16, 64, seed=1))]
    masks = most_salient(saliency, wanted, 3.0)
    taken = sum(stored_bytes(m, 3.0) for m in masks)
    kept = np.concatenate([s[m] for s, m in zip(saliency, masks, strict=True)])
    if wanted > 1e5:
        assert all(m.all() for m in masks)
        return
    gone = np.concatenate([s[~m] for s, m in zip(saliency, masks, strict=True)])
    assert kept.min() >= gone.max()
    assert abs(taken - wanted) <= 2 * CLOSE * wanted
    assert masks[1].mean() > masks[0].mean()


def test_codes_cost_what_the_budget_allows_and_no_more() -> None:
    arrays = {"large": sparse(100, 200, density=0.1), "small": sparse(10, 100, density=0.2, seed=1)}
    free, most = share_within(arrays, 32, 1e9)
    cut = Cluster(bits=5)
    for name, array in arrays.items():
        np.testing.assert_array_equal(free[name].weight.dense(), cut.share(array).dense())  # nothing costs: k-means
    sizes = []
    for wanted in (0.9 * most, 0.8 * most, 0.7 * most):
        found, taken = share_within(arrays, 32, wanted)
        assert sum(len(encode(c.weight)) for c in found.values()) <= taken <= wanted
        assert taken > 0.97 * wanted
        noise = {n: lost(arrays[n], c.weight) for n, c in found.items()}
        assert 0.5 < noise["small"] / noise["large"] < 2  # one price, about the same noise everywhere
        for name, coding in found.items():
            np.testing.assert_array_equal(coding.weight.codes != 0, arrays[name] != 0)
            cells = np.searchsorted(coding.ends, arrays[name][arrays[name] != 0])
            np.testing.assert_array_equal(coding.weight.codes[arrays[name] != 0], cells + 1)
        sizes.append(sum(noise.values()))
    assert sizes == sorted(sizes)


def lost(array: npt.NDArray[np.float32], weight: Weight) -> float:
    """Noise over signal."""
    return float(np.square(array - weight.dense()).sum() / np.square(array).sum())


def test_at_equal_bytes_priced_codes_are_nearer_than_k_means() -> None:
    array = sparse(200, 300, density=0.1)
    plain = Cluster(bits=3).share(array)
    found, taken = share_within({"w": array}, 256, len(encode(plain)))
    assert taken <= len(encode(plain))
    assert lost(array, found["w"].weight) < lost(array, plain)


def test_latent_weights_move_through_their_codebook() -> None:
    array = sparse(8, 16, density=0.5)
    coded = Coded(array, 8)
    found, _ = share_within({"w": array}, 8, float("inf"))
    coded.recode(found["w"].weight.codebook, found["w"].ends)
    np.testing.assert_allclose(coded().detach().numpy(), found["w"].weight.dense(), rtol=1e-6)
    gradient = torch.from_numpy(floats(8, 16, seed=3))
    (coded() * gradient).sum().backward()
    assert coded.values.grad is not None
    np.testing.assert_array_equal(coded.values.grad.numpy(), gradient.numpy()[array != 0])  # straight through
    with torch.no_grad():
        coded.values += 0.5
    moved = coded.finish()
    np.testing.assert_allclose(moved.dense(), coded().detach().numpy(), rtol=1e-6)
    assert (moved.codes > found["w"].weight.codes).any()
    np.testing.assert_array_equal(moved.codes != 0, array != 0)


def test_a_budget_nothing_fits_is_said(mlp: onnx.ModelProto) -> None:
    model = read(mlp)
    result = Cluster(ratio=500).run(model)
    assert all("500 times fewer would be" in entry.action for entry in result.ledger)


# -- the whole way ---------------------------------------------------------------------------------------------------------


def test_a_total_budget_is_kept_and_the_seed_decides(mlp: onnx.ModelProto, blobs: Arrays) -> None:
    first, again, other = (optimize(mlp, blobs, recipe(seed), train=blobs) for seed in (0, 0, 1))
    for result in (first, other):
        before, after = (sum(getattr(row, f"bytes_{k}") for row in result.layers) for k in ("before", "after"))
        assert before == 4 * (32 * 16 + 32 * 24 + 4 * 24)
        assert after * 16 <= before
        assert result.accuracy is not None and result.accuracy.after > 0.9
    densities = [row.kept for row in first.layers]
    assert max(densities) > 1.2 * min(densities)  # one ranking, no one density
    assert codes_of(first.trained) == codes_of(again.trained) != codes_of(other.trained)


def codes_of(model: Any) -> dict[str, bytes]:
    return {t.name: t.SerializeToString() for t in model.graph.initializer}


class Stopped(Exception):
    pass


class StopsAt:
    """Progress that dies after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def stage(self, name: str, steps: int) -> None: ...
    def step(self, what: str) -> None: ...

    def note(self, text: str) -> None:
        self.left -= "epoch" in text
        if self.left < 0:
            raise Stopped


def test_an_interrupted_run_ends_with_the_same_weights(mlp: onnx.ModelProto, blobs: Arrays, tmp_path: Path) -> None:
    whole = optimize(mlp, None, recipe(), train=blobs)
    with pytest.raises(Stopped):
        optimize(mlp, None, recipe(), train=blobs, checkpoint=tmp_path, progress=StopsAt(3))
    resumed = optimize(mlp, None, recipe(), train=blobs, checkpoint=tmp_path)
    assert codes_of(whole.trained) == codes_of(resumed.trained)


def test_the_preset_keeps_its_ratio_without_data_too(mlp: onnx.ModelProto) -> None:
    preset = Recipe.load("deep-compression").with_ratio(8)
    result = optimize(mlp, None, preset)
    assert 8 * sum(row.bytes_after for row in result.layers) <= sum(row.bytes_before for row in result.layers)
    assert Recipe.parse(preset.to_toml(every=True)).to_toml(every=True) == preset.to_toml(every=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Recipe.load("post-training").with_ratio(40),
        lambda: Recipe.load("deep-compression").with_ratio(0.5),
        lambda: Recipe.load("deep-compression").with_ratio(0),
        lambda: Prune(ratio=10, pattern="balanced"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(UserError):
        make()


# -- samples ---------------------------------------------------------------------------------------------------------------


def test_all_inputs_of_an_image_move_with_it_or_none() -> None:
    text = """main (float[N,1,28,28] x, int64[N,28,28] m, float[N,1,SIZE,SIZE] h) => (float[M] y) {
        f = Flatten<axis=0>(x) y = Squeeze(f) }"""
    for size, moved in ((28, {"x": (-2, -1), "m": (-2, -1), "h": (-2, -1)}), (14, {})):
        graph = read(model(text.replace("SIZE", str(size)), {}))
        x, h = (np.zeros((5, 1, side, side), np.float32) for side in (28, size))
        data = {"x": x, "m": np.zeros((5, 28, 28), np.int64), "h": h}
        assert pictures(graph, load(data, graph, validation=0.0, seed=0)) == moved


def test_samples_are_moved_as_wholes_and_all_arrays_of_one_alike() -> None:
    torch.manual_seed(0)
    images = torch.rand(20, 2, 6, 7)
    batch: Mapping[str, torch.Tensor] = {
        "x": images,
        "label": torch.arange(20),
        "row": torch.rand(20, 5),
        "kept": images,
        "last": images.permute(0, 2, 3, 1),
    }
    moved = {"x": (-2, -1), "last": (-3, -2)}
    found = shifted(batch, 1, moved)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    seen = set()
    for before, after in zip(padded, found["x"], strict=True):
        places = [(i, j) for i in range(3) for j in range(3) if torch.equal(before[:, i : i + 6, j : j + 7], after)]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 4
    assert torch.equal(found["last"], found["x"].permute(0, 2, 3, 1))
    assert all(torch.equal(found[name], batch[name]) for name in ("label", "row", "kept"))
    assert all(torch.equal(v, batch[n]) for n, v in shifted(batch, 0, moved).items())


@pytest.mark.parametrize(
    ("shape", "array", "more", "moved"),
    [
        ("N,1,28,28", (5, 1, 28, 28), {}, {"x": (-2, -1)}),
        ("1,1,28,28", (5, 1, 1, 28, 28), {}, {"x": (-2, -1)}),
        ("1,1,28,28", (5, 1, 28, 28), {}, {"x": (-2, -1)}),
        ("N,32,24,3", (5, 32, 24, 3), {}, {"x": (-3, -2)}),
        ("N,49,40", (5, 49, 40), {}, {}),  # steps of a sequence, whose features have places of their own
        ("N,1,49,10", (5, 1, 49, 10), {}, {}),
        ("1,20", (5, 20), {}, {}),
        ("1,256,64", (5, 1, 256, 64), {}, {}),
        ("N,784", (5, 784), {}, {}),
        ("N,1,28,28", (5, 1, 28, 28), {"label": (5, 1, 28, 28)}, {"x": (-2, -1), "label": (-2, -1)}),
        ("N,1,28,28", (5, 1, 28, 28), {"label": (5, 1, 56, 56)}, {}),  # an answer with places that would have to move too
        ("N,1,28,28", (5, 1, 28, 28), {"label": (5, 3)}, {"x": (-2, -1)}),
    ],
)  # fmt: skip
def test_what_is_an_image(
    shape: str, array: tuple[int, ...], more: dict[str, tuple[int, ...]], moved: dict[str, tuple[int, int]]
) -> None:
    graph = read(model(f"main (float[{shape}] x) => (float[M] y) {{ f = Flatten<axis=0>(x) y = Squeeze(f) }}", {}))
    data = {"x": np.zeros(array, np.float32), **{n: np.zeros(s, np.float32) for n, s in more.items()}}
    assert pictures(graph, load(data, graph, validation=0.0, seed=0)) == moved
