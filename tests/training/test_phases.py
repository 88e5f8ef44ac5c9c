"""Phases of training: which state they end with, what a checkpoint depends on, what they leave as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from eie.compiler import Recipe, optimize
from eie.compiler.analysis.layers import find_layers
from eie.compiler.errors import PromiseError, UserError
from eie.compiler.ir.reader import read
from eie.compiler.training.data import load
from eie.compiler.training.fit import fit, right
from eie.compiler.training.network import assemble
from eie.compiler.training.parametrization import Coded, Plain, Ternary
from eie.compiler.training.settings import Settings
from eie.compiler.training.trainer import Training, _optimizer
from eie.runtime.artifact import payloads
from eie.runtime.format import inspect

from .conftest import Arrays, floats, model

TRAIN = '[train]\nepochs = EPOCHS\nlr = 0.01\noptimizer = "adam"\nbatch = 50\n'


def recipe(passes: str, epochs: int = 4, more: str = "") -> Recipe:
    return Recipe.parse(
        f"passes = {json.dumps(passes.split(';'))}\n{TRAIN}{more}".replace("EPOCHS", str(epochs)), "test"
    )


# -- which state is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "passes",
    ["prune{density=0.1,ramp=0.6,steps=1}", "prune{density=0.1,ramp=1,steps=2}", "prune{ratio=12,ramp=0.75,exchange=0.25}",
     "share{bits=2,refits=1}", "ttq{ends=too}"],
)  # fmt: skip
def test_what_is_reported_of_an_epoch_is_what_is_stored(trained: onnx.ModelProto, blobs: Arrays, passes: str) -> None:
    halves = [{n: a[part] for n, a in blobs.items()} for part in (slice(0, 400), slice(400, 600))]
    result = optimize(trained, None, recipe(f"{passes};cluster{{bits=8}};encode", 10), train=(halves[0], halves[1]))
    assert result.learnt is not None and result.trained is not None
    kept = next(e for e in result.learnt.epochs if e.kept)
    assert kept.held_right == pytest.approx(right(result.trained, halves[1]))
    if "prune" in passes:  # an epoch of the final mask, or trained under it: never one that was cut afterwards
        assert kept.epoch > 6


def test_a_later_phase_never_ends_worse_than_it_began(trained: onnx.ModelProto, blobs: Arrays) -> None:
    notes: list[str] = []

    class Progress:
        def stage(self, name: str, steps: int) -> None: ...
        def step(self, what: str) -> None: ...

        def note(self, text: str) -> None:
            notes.append(text)

    plan = recipe("retrain{epochs=2};retrain{epochs=3,rate=3000};cluster{bits=8};encode")
    result = optimize(trained, None, plan, train=blobs, progress=Progress())
    assert result.learnt is not None and result.trained is not None
    first, later = result.learnt.epochs[:2], result.learnt.epochs[2:]
    assert any(e.kept for e in first) and not any(e.kept for e in later)
    assert "which is kept" in notes[-1]
    assert right(result.trained, blobs) > 0.95


def test_pruning_goes_on_from_where_pruning_was(trained: onnx.ModelProto, blobs: Arrays) -> None:
    passes = "prune{density=0.3,epochs=2};prune{density=0.2,epochs=3,splice=no,steps=1000};cluster;encode"
    graph = read(trained)
    once = optimize(trained, None, recipe(passes.split(";", 1)[0] + ";cluster;encode"), train=blobs)
    twice = optimize(trained, None, recipe(passes), train=blobs)
    assert once.trained is not None and twice.trained is not None
    first, second = (
        {la.name: la.array() != 0 for la in find_layers(read(m))[0]} for m in (once.trained, twice.trained)
    )
    for layer in find_layers(graph)[0]:
        assert second[layer.name].mean() == pytest.approx(0.2, abs=0.01)
        assert not (second[layer.name] & ~first[layer.name]).any()


# -- checkpoints -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [("prune{density=0.2}", "prune{density=0.5}"), ("prune{density=0.5,pattern=2:4}", "prune{density=0.5,pattern=balanced}"),
     ("prune{ratio=8}", "prune{ratio=30}"), ("share{bits=3}", "share{bits=4}"), ("ttq", "ttq{t=0.1}")],
)  # fmt: skip
def test_a_checkpoint_of_other_options_is_refused(
    trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path, before: str, after: str
) -> None:
    optimize(trained, None, recipe(f"{before};cluster{{bits=8}};encode", 1), train=blobs, checkpoint=tmp_path)
    with pytest.raises(UserError, match=r"is the checkpoint of another run: not the same recipe\."):
        optimize(trained, None, recipe(f"{after};cluster{{bits=8}};encode", 1), train=blobs, checkpoint=tmp_path)


def test_a_checkpoint_of_another_graph_is_refused(trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path) -> None:
    fit(trained, blobs, Settings(epochs=1), checkpoint=tmp_path)
    other = onnx.ModelProto()
    other.CopyFrom(trained)
    next(n for n in other.graph.node if n.op_type == "Relu").op_type = "Tanh"
    with pytest.raises(UserError, match=r"another run: not the same model\."):
        fit(other, blobs, Settings(epochs=1), checkpoint=tmp_path)


def test_a_checkpoint_of_another_loss_is_refused(trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path) -> None:
    path, text = tmp_path / "losses.py", "def loss(outputs, batch):\n    return outputs['y'].square().mean() * {}\n"
    path.write_text(text.format(1))
    settings = Settings(epochs=1, loss=f"{path}:loss")
    fit(trained, blobs, settings, checkpoint=tmp_path / "kept")
    path.write_text(text.format(2))
    with pytest.raises(UserError, match=r"another run: not the same loss\."):
        fit(trained, blobs, settings, checkpoint=tmp_path / "kept")


@pytest.mark.parametrize("stop", [3, 6])
def test_a_run_that_goes_on_under_a_final_mask_ends_the_same(
    trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path, stop: int
) -> None:
    """The norm that gradients are clipped to does not count those of pruned weights once masks are final."""
    plan = recipe("prune{density=0.2,ramp=0.4};cluster{bits=8};encode", 8, 'clip = 0.05\nkeep = "last"\n')

    class Stops:
        def __init__(self) -> None:
            self.left = stop

        def stage(self, name: str, steps: int) -> None: ...
        def step(self, what: str) -> None: ...

        def note(self, text: str) -> None:
            self.left -= text.startswith("prune")
            if self.left < 0:
                raise KeyboardInterrupt

    whole = optimize(trained, None, plan, train=blobs, checkpoint=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        optimize(trained, None, plan, train=blobs, checkpoint=tmp_path / "cut", progress=Stops())
    again = optimize(trained, None, plan, train=blobs, checkpoint=tmp_path / "cut")
    assert _bytes(again, tmp_path) == _bytes(whole, tmp_path)


# -- what is left as it was ------------------------------------------------------------------------------------------------


def test_pruning_leaves_what_no_gradient_weighs(blobs: Arrays) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,16] x) => (float[N,4] y) {
        [first] a = Gemm<transB=1>(x, w) r = Round(a) [mid] m = Gemm<transB=1>(r, u) q = Relu(m) [last] y = Gemm<transB=1>(q, v) }"""
    start = model(
        text, {"w": floats(32, 16), "u": floats(32, 32, seed=1, scale=0.3), "v": floats(8, 32, seed=2, scale=0.3)}
    )
    for passes in ("prune{ratio=20}", "prune{density=0.2}"):
        result = optimize(start, None, recipe(f"{passes};cluster{{bits=8}};encode"), train=blobs)
        assert result.trained is not None
        kept = {la.name: float((la.array() != 0).mean()) for la in find_layers(read(result.trained))[0]}
        assert kept["first"] == 1 and kept["mid"] < 0.5


def test_pruning_without_any_gradient_is_refused(blobs: Arrays) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,16] x) => (float[N,4] y) {
        [first] a = Gemm<transB=1>(x, w) r = Round(a) [last] y = Gemm<transB=1>(r, v, b) }"""
    start = model(text, {"w": floats(32, 16), "v": floats(4, 32), "b": floats(4)})
    rule = '[[rule]]\nmatch = "last"\nskip = true\n'
    for passes in ("prune{ratio=20}", "prune{density=0.2}"):
        with pytest.raises(UserError, match="nothing can be pruned while training: Round"):
            optimize(start, None, recipe(f"{passes};cluster;encode", 2, rule), train=blobs)


def test_a_user_has_their_random_numbers_and_threads_back(trained: onnx.ModelProto, blobs: Arrays) -> None:
    torch.manual_seed(5)
    threads, wanted = torch.get_num_threads(), torch.rand(3)
    torch.manual_seed(5)
    fit(trained, blobs, Settings(epochs=1, threads=threads + 1))
    assert torch.equal(torch.rand(3), wanted) and torch.get_num_threads() == threads


def test_weights_decay_and_nothing_else_does() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[5,N,8] x) => (float[N,3] y) {
        all, h = LSTM<hidden_size=16>(x, w, r, b) last = Squeeze(h, zero) y = Gemm<transB=1>(last, v, c) }"""
    shapes = {"w": (1, 64, 8), "r": (1, 64, 16), "b": (1, 128), "v": (3, 16), "c": (3,)}
    constants: Arrays = {n: floats(*s) for n, s in shapes.items()}
    graph = read(model(text, {**constants, "zero": np.array([0])}))
    for make in (Plain, lambda a: Coded(a, 8), lambda a: Ternary(a, 0.05)):
        network = assemble(graph, layers := find_layers(graph)[0], {la: make(la.array()) for la in layers})  # type: ignore[no-untyped-call]
        optimizer = _optimizer(network, Settings(weight_decay=0.01))
        decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
        names = {t.constant.name for t in network.trained for p in t.parametrization.parameters() if id(p) in decayed}
        assert names == {"w", "r", "v"}
        assert len(decayed) == 3  # of a ternary weight the latent values, not the scales


def test_the_teacher_is_asked_once(trained: onnx.ModelProto, blobs: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = read(trained)
    training = Training(graph, load(blobs, graph, validation=0.1, seed=0), Settings(distill=0.5, batch=50))
    asked = 0
    forward = training.outputs

    def counted(network: Any, batch: Any) -> Any:
        nonlocal asked
        asked += network is training.teacher
        return forward(network, batch)

    monkeypatch.setattr(training, "outputs", counted)
    for _ in range(3):
        rows = np.arange(50)
        answers = training.answers(rows, training.batch(training.data.train, rows, torch.device("cpu")))
        assert answers is not None and answers[0].shape == (50, 4)
    assert asked == 11  # batches of the 540 samples, once


# -- recipes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('passes = ["cluster", "prune", "encode"]', "prune would undo what cluster does before it"),
        ('passes = ["ternarize", "dsd", "encode"]', "dsd would undo what ternarize does before it"),
        ('passes = ["cluster", "retrain{mask=release}", "encode"]', "would undo what cluster does"),
        ('passes = ["prune{ratio=8,density=0.5}", "encode"]', "a ratio and a density"),
        ('passes = ["prune"]\n[[rule]]\nmatch = "a"\nprune = { epochs = 3 }', "epochs is the same for all layers"),
    ],
)
def test_recipes_that_can_not_be_meant(trained: onnx.ModelProto, blobs: Arrays, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        optimize(trained, None, Recipe.parse(text, "test"), train=blobs)


def test_a_rule_takes_a_layer_out_of_the_budget(trained: onnx.ModelProto, blobs: Arrays) -> None:
    rule = '[[rule]]\nmatch = "first"\nprune = { ratio = 0, density = 0.9 }\n'
    result = optimize(trained, None, recipe("prune{ratio=20};cluster{bits=4};encode", 4, rule), train=blobs)
    kept = {row.name: row.kept for row in result.layers}
    assert kept["first"] == pytest.approx(0.9, abs=0.01) and kept["second"] < 0.3


def test_a_ratio_that_is_not_reached_is_said(trained: onnx.ModelProto, blobs: Arrays) -> None:
    done = optimize(trained, None, recipe("prune{ratio=8};share{ratio=8};encode", 2), train=blobs)
    assert done.missed is None
    ruled = recipe("prune;share;encode", 1, '[[rule]]\nmatch = "first"\nprune = { ratio = 5000 }\n')
    assert optimize(trained, None, ruled, train=blobs).budgeted[0][0] == 5000
    far = optimize(trained, None, recipe("prune{ratio=8};share{ratio=5000,bits=1,epochs=1};encode", 2), train=blobs)
    assert far.missed is not None and "and not 5000 times" in far.missed


def test_patterns_last_from_pruning_to_the_file(trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path) -> None:
    for train in (None, blobs):
        plan = recipe("prune{density=0.25,pattern=balanced,lanes=8};retrain;fold-units;cluster{bits=4};encode", 2)
        result = optimize(trained, None, plan, train=train)
        result.save(tmp_path / "m.onnx")
        stored = payloads(onnx.load(tmp_path / "m.onnx"))
        assert stored and {inspect(p.content).pattern for p in stored} == {"balanced"}


def _bytes(result: Any, folder: Path) -> bytes:
    result.save(folder / "m.onnx")
    return (folder / "m.onnx").read_bytes()


# -- promises ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["deep-compression", "ese", "ttq", "dsd"])
def test_a_promise_is_judged_after_training(trained: onnx.ModelProto, blobs: Arrays, preset: str) -> None:
    """Layers are not given up because pruning without training would break it."""
    plan = Recipe.load(preset)
    assert plan.train is not None
    plan = replace(plan, activations="f32", train=replace(plan.train, epochs=3, batch=50, lr=0.01, optimizer="adam"))
    if preset == "deep-compression":
        plan = plan.with_ratio(8)
    result = optimize(trained, blobs, plan, train=blobs, budget={"max_drop": 0.5})
    assert result.promised is not None and result.missed is None and result.promised.held_back
    assert len(result.layers) >= (1 if preset == "ttq" else 3)
    with pytest.raises(PromiseError, match="the trained model misses it on"):
        optimize(trained, blobs, plan.with_ratio(300) if preset == "deep-compression" else plan, train=blobs,
                 budget={"model_sqnr_db": 90.0}, refuse=True)  # fmt: skip


def test_a_time_is_not_promised_of_training(trained: onnx.ModelProto, blobs: Arrays) -> None:
    with pytest.raises(UserError, match="isn't known before"):
        optimize(trained, blobs, recipe("retrain;cluster;encode"), train=blobs, budget={"latency_us": 5.0})


def test_strict_does_not_ask_a_trained_model_for_the_default_budget(trained: onnx.ModelProto, blobs: Arrays) -> None:
    result = optimize(trained, blobs, recipe("prune{density=0.1};cluster{bits=3};encode"), train=blobs, strict=True)
    assert result.verify.sqnr_db < 25 and result.missed is None
    with pytest.raises(PromiseError, match="times fewer bytes, and not 5000 times"):
        optimize(trained, blobs, recipe("prune{ratio=8};share{ratio=5000,bits=1};encode", 1), train=blobs, strict=True)


@pytest.mark.parametrize("budget", [{"max_drop": 0.02}, {"model_sqnr_db": 20.0}, {"size": 4000}])
def test_a_search_tries_recipes_that_fold_units(trained: onnx.ModelProto, blobs: Arrays, budget: dict[str, float]) -> None:
    """What a try folds away is there again for the next."""
    before = {la.name: la.array() for la in find_layers(read(trained))[0]}
    result = optimize(trained, {"x": blobs["x"], "label": blobs["label"]}, "deep-compression", budget=budget)
    assert result.promised is not None and (result.promised.tries > 1 or "size" in budget)
    assert {la.name: la.shape for la in find_layers(read(trained))[0]} == {n: a.shape for n, a in before.items()}


def test_probabilities_of_classes_are_learnt_as_such(blobs: Arrays, trained: onnx.ModelProto) -> None:
    onehot = {"x": blobs["x"], "label": np.eye(4, dtype=np.float32)[blobs["label"]]}
    settings = Settings(epochs=3, lr=0.01, optimizer="adam", batch=50)
    one, other = (fit(trained, data, settings).epochs[-1] for data in (onehot, blobs))
    assert one.loss == pytest.approx(other.loss, rel=1e-4) and one.right == other.right
