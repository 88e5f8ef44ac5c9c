"""Samples of all kinds: several a run, several answers a sample, labels and items that do not fit, losses that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from eie.compiler import Recipe, optimize
from eie.compiler.errors import UserError
from eie.compiler.ir.reader import read
from eie.compiler.training.data import load
from eie.compiler.training.fit import fit
from eie.compiler.training.network import Network
from eie.compiler.training.settings import Settings
from eie.compiler.training.trainer import Training

from .conftest import Arrays, floats, model

TEXT = """<ir_version: 8, opset_import: ["" : 17]> main (float[BATCH,16] x) => (float[BATCH,4] y) {
    [first] a = Gemm<transB=1>(x, w) h = Relu(a) [last] y = Gemm<transB=1>(h, v, b) }"""


def mlp(batch: str = "N", text: str = TEXT) -> onnx.ModelProto:
    return model(text.replace("BATCH", batch), {"w": floats(32, 16), "v": floats(4, 32, scale=0.2), "b": floats(4)})


FAST = Settings(epochs=3, lr=0.01, optimizer="adam", batch=32)


@pytest.mark.parametrize("label", [lambda y: y, lambda y: y[:, None], lambda y: np.eye(4, dtype=np.float32)[y]])
@pytest.mark.parametrize("batch", ["1", "4", "600"])
def test_models_of_a_fixed_batch_learn_as_others_do(blobs: Arrays, batch: str, label: Any) -> None:
    blobs = _with(blobs, label=label(blobs["label"]))
    settings = Settings(epochs=30, lr=0.02, optimizer="adam", batch=8 if batch == "4" else 32)
    found = fit(mlp(batch), blobs, settings)
    right = [e.right for e in found.epochs]
    assert right[-1] is not None and right[0] is not None
    assert right[-1] > 0.9  # labels go with their samples
    assert min(r or 0 for r in right) >= 0 and max(r or 0 for r in right) <= 1


def test_runs_of_samples_may_be_stacked_with_a_label_each(blobs: Arrays) -> None:
    stacked = {"x": blobs["x"].reshape(150, 4, 16), "label": blobs["label"].reshape(150, 4)}
    settings = Settings(epochs=2, lr=0.01, optimizer="adam", batch=8)
    one, other = (fit(mlp("4"), data, settings).epochs[-1].loss for data in (stacked, blobs))
    assert one == other


def test_a_sequence_has_an_answer_a_step() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,7,16] x) => (float[N,7,4] y) {
        h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"""
    x = floats(300, 7, 16)
    found = fit(
        model(text, {"w": floats(16, 32), "v": floats(32, 4)}), {"x": x, "label": x[:, :, :4].argmax(-1)},
        Settings(epochs=40, lr=0.02, optimizer="adam", batch=32),
    )  # fmt: skip
    assert found.epochs[-1].held_right is not None and 0.6 < found.epochs[-1].held_right <= 1


def test_a_softmax_is_looked_through_wherever_axes_come_after_it(blobs: Arrays) -> None:
    text = TEXT.replace("float[BATCH,4] y", "float[BATCH,1,4] y").replace(
        "[last] y = Gemm<transB=1>(h, v, b)",
        "l = Gemm<transB=1>(h, v, b) p = Softmax<axis=-1>(l) y = Unsqueeze(p, one)",
    )
    start = mlp(text=text)
    start.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    assert fit(start, blobs, FAST).epochs[-1].loss == pytest.approx(fit(mlp(), blobs, FAST).epochs[-1].loss, rel=1e-4)


@pytest.mark.parametrize("batch", ["1", "N"])
def test_ternary_weights_learn_at_any_batch(blobs: Arrays, batch: str) -> None:
    plan = Recipe.parse(
        'passes = ["ttq{ends=too}", "encode"]\n[train]\nepochs = 4\noptimizer = "adam"\nbatch = 32\n', "test"
    )
    result = optimize(mlp(batch), None, plan, train=blobs)
    assert result.learnt is not None and [r.bits for r in result.layers] == [2, 2]
    losses = [e.loss for e in result.learnt.epochs]
    assert losses[-1] < losses[0]


def test_outputs_are_compared_on_samples_held_back_where_no_others_are_given(blobs: Arrays) -> None:
    plan = Recipe.parse('passes = ["retrain", "cluster", "encode"]\n[train]\nepochs = 1\n', "test")
    result = optimize(mlp(), None, plan, train=blobs)
    assert not result.made_up and result.verify.samples == 60 and result.accuracy is None


class Items:
    """600 samples, one of them changed."""

    def __init__(self, blobs: Arrays, at: int, **changed: Any) -> None:
        self.blobs, self.at, self.changed = blobs, at, changed

    def __len__(self) -> int:
        return 600

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = {"x": self.blobs["x"][index], "label": int(self.blobs["label"][index])}
        return {k: v for k, v in {**found, **self.changed}.items() if v is not None} if index == self.at else found


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"label": 4}, "the labels go from 0 to 4"),
        ({"label": -100}, "the labels go from -100"),
        ({"label": "three"}, "sample 20 has <U5"),
        ({"label": None}, "sample 20 has none for 'label'"),
        ({"x": np.zeros((16, 1), np.float32)}, r"sample 20 has float32 \[16, 1\]"),
        ({"x": torch.zeros(16, requires_grad=True)}, "raised RuntimeError"),
    ],
)
def test_items_that_do_not_fit(blobs: Arrays, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        fit(mlp(), Items(blobs, 20, **changed), FAST)


def _with(blobs: Arrays, **changed: Any) -> Arrays:
    return {n: a for n, a in {**blobs, **changed}.items() if a is not None}


def test_validation_samples_that_do_not_fit(blobs: Arrays) -> None:
    spoilt = blobs["x"].copy()
    spoilt[3, 0] = np.nan
    for held, says in (
        (_with(blobs, label=blobs["label"] + 1), "the labels go from 1 to 4"),
        (_with(blobs, label=None), "validation samples have other arrays"),
        (_with(blobs, x=spoilt), "the loss of the validation data is not finite"),
    ):
        with pytest.raises(UserError, match=says):
            fit(mlp(), (blobs, held), FAST)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (lambda y: np.where(y == 1, 0.5, y), "no whole numbers"),
        (lambda y: np.eye(4, dtype=np.int64)[y], "one-hot labels"),
    ],
)
def test_labels_that_are_no_classes(blobs: Arrays, label: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fit(mlp(), _with(blobs, label=label(blobs["label"])), Settings(epochs=1, loss="cross-entropy"))


def test_labels_are_probabilities_in_all_rows_or_in_none(blobs: Arrays) -> None:
    label = np.eye(4, dtype=np.float32)[blobs["label"]]
    label[500:] *= -1
    with pytest.raises(UserError, match="some rows of the labels are probabilities"):
        fit(mlp(), _with(blobs, label=label), FAST)


def test_one_score_is_no_choice(blobs: Arrays) -> None:
    one = model(
        TEXT.replace("BATCH", "N").replace(",4] y", ",1] y"), {"w": floats(32, 16), "v": floats(1, 32), "b": floats(1)}
    )
    with pytest.raises(UserError, match="gives one score"):
        fit(one, _with(blobs, label=blobs["label"] % 2), FAST)


@pytest.mark.parametrize(
    ("body", "says"),
    [("outputs['y'].sum().detach()", "has no gradient"), ("torch.tensor(1.0)", "has no gradient"),
     ("outputs['y'].sum() * 1j", "no single number"), ("outputs['y']", "no single number"),
     ("(outputs['y'] * 1e38).square().sum().sqrt() * 0 + outputs['y'].sum()", "not finite")],
)  # fmt: skip
def test_losses_that_are_none(blobs: Arrays, tmp_path: Path, body: str, says: str) -> None:
    (tmp_path / "l.py").write_text(f"import torch\ndef loss(outputs, batch):\n    return {body}\n")
    with pytest.raises(UserError, match=says):
        fit(mlp(), blobs, Settings(epochs=1, loss=f"{tmp_path / 'l.py'}:loss"))


def test_a_teacher_can_be_followed_beside_a_loss_of_ones_own(blobs: Arrays, tmp_path: Path) -> None:
    (tmp_path / "l.py").write_text("def loss(outputs, batch):\n    return outputs['y'].square().mean()\n")
    found = {
        share: fit(
            mlp(), blobs, Settings(epochs=5, lr=0.01, optimizer="adam", loss=f"{tmp_path / 'l.py'}:loss", distill=share)
        )
        for share in (0.0, 0.999)
    }
    x = {"x": torch.from_numpy(blobs["x"])}
    before, alone, taught = (Network(read(m), device="cpu")(x)[0] for m in (mlp(), found[0.0].model, found[0.999].model))
    assert (taught - before).square().mean() < 0.2 * (alone - before).square().mean()


@pytest.mark.parametrize("cell", ["Cast<to=6>", "Hardmax<axis=1>"])
def test_what_ends_gradients_is_named(blobs: Arrays, cell: str) -> None:
    text = TEXT.replace("BATCH", "N").replace("h = Relu(a)", f"i = {cell}(a) h = Cast<to=1>(i)")
    graph = read(model(text, {"w": floats(32, 16), "v": floats(4, 32), "b": floats(4)}))
    training = Training(graph, load(blobs, graph, validation=0.1, seed=0), FAST)
    lost = training.unreached(graph, [graph.graph.constants["w"], graph.graph.constants["v"]])
    assert list(lost) == ["w"] and cell.partition("<")[0] in lost["w"]


def test_nothing_to_train_is_said(blobs: Arrays) -> None:
    plan = Recipe.parse(
        'passes = ["retrain", "cluster", "encode"]\n[train]\nepochs = 1\n[[rule]]\nmatch = "*"\nskip = true\n', "test"
    )
    text = TEXT.replace("BATCH", "N").replace("(h, v, b)", "(h, v)")
    with pytest.raises(UserError, match="nothing can be trained"):
        optimize(model(text, {"w": floats(32, 16), "v": floats(4, 32)}), None, plan, train=blobs)


def test_a_dataset_of_tuples_is_read_by_the_order_of_inputs(blobs: Arrays) -> None:
    pairs = [(x, int(y)) for x, y in zip(blobs["x"], blobs["label"], strict=True)]
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(blobs["x"]), torch.from_numpy(blobs["label"]))
    losses = {fit(mlp(), data, FAST).epochs[-1].loss for data in (pairs, tensors, blobs)}
    assert len(losses) == 1
    with pytest.raises(UserError, match="a sample is a tuple"):
        fit(mlp(), [(x, 0, 0) for x in blobs["x"]], FAST)
