"""Passes that train: what they promise of a weight's form, of accuracy, and of runs that are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from eie.compiler import Recipe, optimize
from eie.compiler.analysis.layers import find_layers
from eie.compiler.errors import ModelError, UserError
from eie.compiler.ir.reader import read
from eie.compiler.training.data import load
from eie.compiler.training.fit import fit, right
from eie.compiler.training.network import assemble
from eie.compiler.training.parametrization import Plain, Shared, Ternary
from eie.compiler.training.settings import Settings
from eie.compiler.training.trainer import Epoch, Training, _Phase, schedule
from eie.runtime import Session
from eie.runtime.weight import Weight

from .conftest import Arrays, floats, model

TRAIN = """
[train]
epochs = 8
lr = 0.01
optimizer = "adam"
batch = 50
"""


def recipe(passes: str, more: str = TRAIN) -> Recipe:
    return Recipe.parse(f"passes = {json.dumps(passes.split(';'))}\n{more}", "test")


# -- parametrizations ------------------------------------------------------------------------------------------------------


def test_a_centroid_gets_the_sum_of_its_members_gradients() -> None:
    codes = np.random.default_rng(0).integers(0, 5, (7, 9)).astype(np.uint8)
    shared = Shared(Weight(codes, np.float32([0, -2, -1, 1, 3])))
    pull = torch.from_numpy(floats(7, 9))
    (shared() * pull).sum().backward()
    wanted = [float(pull.numpy()[codes == k].sum()) for k in range(1, 5)]
    assert shared.centroids.grad is not None
    np.testing.assert_allclose(shared.centroids.grad.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_shared_weights_end_as_codes_in_ascending_order() -> None:
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    shared = Shared(Weight(codes, np.float32([0, 1, 2, 3])))
    with torch.no_grad():
        shared.centroids.copy_(torch.tensor([5.0, -1.0, 3.0]))
    found = shared.finish()
    assert found.codebook.tolist() == [0, -1, 3, 5]
    np.testing.assert_array_equal(found.dense(), shared().detach().numpy())


def test_ternary_gradients_are_those_of_the_paper() -> None:
    latent = np.float32([[1.0, 0.5, 0.04], [-0.03, -0.6, -1.0]])
    ternary = Ternary(latent, 0.05, (0.7, 0.9))
    np.testing.assert_allclose(ternary().detach().numpy(), np.float32([[0.7, 0.7, 0], [0, -0.9, -0.9]]))
    pull = torch.from_numpy(floats(2, 3))
    (ternary() * pull).sum().backward()
    g = pull.numpy()
    assert ternary.value.grad is not None and ternary.p.grad is not None and ternary.n.grad is not None
    np.testing.assert_allclose(ternary.value.grad.numpy(), g * np.float32([[0.7, 0.7, 1], [1, 0.9, 0.9]]))
    assert ternary.p.grad.item() == pytest.approx(g[0, 0] + g[0, 1])
    assert ternary.n.grad.item() == pytest.approx(-(g[1, 1] + g[1, 2]))
    np.testing.assert_array_equal(ternary.finish().dense(), ternary().detach().numpy())


def test_pruned_weights_stay_zero_unless_they_may_come_back() -> None:
    value, mask = np.ones((2, 2), np.float32), np.array([[True, False], [True, True]])
    for through in (False, True):
        plain = Plain(value, mask, through=through)
        plain().sum().backward()
        assert plain.value.grad is not None
        np.testing.assert_array_equal(plain.value.grad.numpy() != 0, np.ones((2, 2), np.bool_) if through else mask)
        np.testing.assert_array_equal(plain.finish(), mask.astype(np.float32))


# -- passes ------------------------------------------------------------------------------------------------------------------


def test_deep_compression_keeps_what_pruning_at_once_loses(trained: onnx.ModelProto, blobs: Arrays) -> None:
    passes = "prune{density=0.15};cluster{bits=3};retrain{epochs=4,rate=0.3};encode"
    with_data = optimize(trained, blobs, recipe(passes), train=blobs)
    without = optimize(trained, blobs, recipe(passes))
    assert with_data.accuracy is not None and without.accuracy is not None
    assert with_data.accuracy.after > 0.95 > without.accuracy.after
    assert {round(row.kept, 2) for row in with_data.layers} <= {0.15, 0.16, 0.14}
    assert all(row.bits <= 3 for row in with_data.layers)
    assert without.untrained == ["prune", "retrain"] and with_data.untrained == []
    assert [e.phase for e in with_data.learnt.epochs] == ["prune"] * 8 + ["retrain"] * 4  # type: ignore[union-attr]


def test_rules_hold_for_training_too(trained: onnx.ModelProto, blobs: Arrays) -> None:
    rules = '[[rule]]\nmatch = "second"\nprune = { density = 0.5 }\n[[rule]]\nmatch = "last"\nskip = true\n'
    result = optimize(trained, blobs, recipe("prune{density=0.25,epochs=3};cluster;encode", TRAIN + rules), train=blobs)
    assert {row.name: round(row.kept, 2) for row in result.layers} == {"first": 0.25, "second": 0.5}
    assert result.trained is not None
    now, before = ({la.name: la.array() for la in find_layers(read(m))[0]} for m in (result.trained, trained))
    np.testing.assert_array_equal(now["last"], before["last"])


@pytest.mark.parametrize("pattern", ["balanced", "block", "2:4"])
def test_patterns_are_kept_while_training(trained: onnx.ModelProto, blobs: Arrays, pattern: str) -> None:
    passes = f"prune{{density=0.25,pattern={pattern},lanes=8,epochs=3}};retrain{{epochs=1}};cluster;encode"
    result = optimize(trained, None, recipe(passes), train=blobs)
    assert result.trained is not None
    for layer in find_layers(read(result.trained))[0]:
        alive = layer.array() != 0
        rows, columns = alive.shape
        if pattern == "balanced":
            lanes = min(8, rows)
            counts = {int(alive[lane::lanes].sum()) for lane in range(lanes)}
            assert counts == {round(0.25 * (rows // lanes) * columns)}
        elif pattern == "2:4":
            assert alive.reshape(rows, -1, 4).sum(2).max() <= 2
        else:
            assert set(alive.reshape(rows, -1, 4).any(2).reshape(-1)) == {True, False}
            assert alive.sum() >= 0.9 * 4 * alive.reshape(rows, -1, 4).any(2).sum()


def test_ttq_ends_in_two_bit_codes_that_run_everywhere(trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path) -> None:
    result = optimize(trained, blobs, recipe("ttq;cluster{bits=8};encode"), train=blobs)
    assert result.accuracy is not None and result.accuracy.after > 0.95
    rows = {row.name: row for row in result.layers}
    assert {name for name, row in rows.items() if row.bits == 2} == {"second"}
    assert rows["first"].bits > 2  # sharing the last, of 96 weights, would save nothing
    path = tmp_path / "ternary.eie.onnx"
    result.save(path)
    feeds = {"x": blobs["x"][:20]}
    wanted = Session(path, "reference").run(None, feeds)[0]
    for backend in ("cpu", "ort"):
        np.testing.assert_allclose(Session(path, backend).run(None, feeds)[0], wanted, rtol=1e-4, atol=1e-4)
    fixed = [Session(path, b, activations="i16").run(None, feeds)[0] for b in ("reference", "cpu", "hardware")]
    np.testing.assert_array_equal(fixed[0], fixed[1])
    np.testing.assert_array_equal(fixed[0], fixed[2])


def test_dsd_ends_dense_and_no_worse(trained: onnx.ModelProto, blobs: Arrays) -> None:
    result = optimize(trained, blobs, recipe("dsd{density=0.5,repeats=2,epochs=2};cluster{bits=8};encode"), train=blobs)
    assert result.learnt is not None and result.trained is not None
    assert [e.phase for e in result.learnt.epochs][::2] == [
        "dsd: sparse 1 of 2", "dsd: dense 1 of 2", "dsd: sparse 2 of 2", "dsd: dense 2 of 2",
    ]  # fmt: skip
    rates = [e.rate for e in result.learnt.epochs]
    assert rates[2] == pytest.approx(rates[0] / 10)
    for layer in find_layers(read(result.trained))[0]:
        assert (layer.array() == 0).mean() < 0.05
    assert right(result.trained, blobs) > 0.97


_CELLS = {  # c or h before, gates z -> what is projected
    "LSTM": """i, o, f, g = Split<axis=1, num_outputs=4>(z) si = Sigmoid(i) so = Sigmoid(o) sf = Sigmoid(f) tg = Tanh(g)
            keep = Mul(sf, ci) new = Mul(si, tg) co = Add(keep, new) tc = Tanh(co) m = Mul(so, tc)""",
    "GRU": """u, q, n = Split<axis=1, num_outputs=3>(z) su = Sigmoid(u) sq = Sigmoid(q) nn = Mul(sq, n) tn = Tanh(nn)
            d = Sub(tn, ci) dd = Mul(su, d) co = Add(ci, dd) m = Identity(co)""",
}


def projected(op: str, hidden: int = 12, size: int = 8) -> onnx.ModelProto:
    """An LSTM with projection (ESE's), or a GRU: what goes back is a projection of its output, so it is a Scan with Gemms in its
    body."""
    gates = {"LSTM": 4, "GRU": 3}[op] * hidden
    text = f"""<ir_version: 8, opset_import: ["" : 18]> main (float[N,10,6] x) => (float[N,4] y) {{
        steps = Transpose<perm=[1,0,2]>(x)
        shape = Shape<start=0, end=1>(x) wide = Concat<axis=0>(shape, hs) deep = Concat<axis=0>(shape, cs)
        h0 = ConstantOfShape(wide) c0 = ConstantOfShape(deep)
        h, c, all = Scan<num_scan_inputs=1, body = step (float[N,{size}] hi, float[N,{hidden}] ci, float[N,6] xi) =>
            (float[N,{size}] ho, float[N,{hidden}] co, float[N,{size}] out) {{
            [input] a = Gemm<transB=1>(xi, wx, b) [recurrent] r = Gemm<transB=1>(hi, wr) z = Add(a, r)
            {_CELLS[op]}
            [projection] ho = Gemm<transB=1>(m, wp) out = Identity(ho) }}>(h0, c0, steps)
        [classifier] y = Gemm<transB=1>(h, wy) }}"""
    shapes = {"wx": (gates, 6), "wr": (gates, size), "wp": (size, hidden), "wy": (4, size)}
    constants: Arrays = {n: floats(*s, seed=i, scale=0.5) for i, (n, s) in enumerate(shapes.items())}
    constants |= {"b": np.zeros(gates, np.float32), "hs": np.int64([size]), "cs": np.int64([hidden])}
    return model(text, constants)


def recurrent(op: str) -> onnx.ModelProto:
    gates = {"LSTM": 4, "GRU": 3}[op] * 12
    text = f"""<ir_version: 8, opset_import: ["" : 17]> main (float[N,10,6] x) => (float[N,4] y) {{
        steps = Transpose<perm=[1,0,2]>(x) [rnn] all, last = {op}<hidden_size=12>(steps, w, r)
        h = Squeeze(last, axis) [classifier] y = Gemm<transB=1>(h, wy) }}"""
    shapes = {"w": (1, gates, 6), "r": (1, gates, 12), "wy": (4, 12)}
    constants: Arrays = {n: floats(*s, seed=i, scale=0.3) for i, (n, s) in enumerate(shapes.items())}
    return model(text, constants | {"axis": np.int64([0])})


@pytest.mark.parametrize(("kind", "projection"), [("LSTM", False), ("GRU", False), ("LSTM", True), ("GRU", True)])
def test_balanced_pruning_of_recurrent_layers(kind: str, projection: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(0, 4, 300)
    x = rng.standard_normal((300, 10, 6)).astype(np.float32)
    x[np.arange(300), :, label] += 0.8
    data = {"x": x, "label": label}
    start = projected(kind) if projection else recurrent(kind)
    settings = Settings(epochs=24 if projection else 8, lr=0.02, optimizer="adam", batch=30, clip=1.0)
    dense = fit(start, data, settings).model
    passes = "prune{density=0.5,pattern=balanced,lanes=4,splice=no,epochs=6};cluster{bits=5};retrain{epochs=2,rate=0.3};encode"
    text = TRAIN.replace("batch = 50", "batch = 30")
    result = optimize(dense, data, recipe(passes, text), train=data)
    assert result.accuracy is not None
    assert result.accuracy.before > 0.9 and result.accuracy.after > result.accuracy.before - 0.06
    pruned = [la for la in find_layers(read(result.trained))[0] if la.name != "classifier"]  # type: ignore[arg-type]
    assert len(pruned) == (3 if projection else 2)
    for layer in pruned:
        alive = (layer.array() != 0).reshape(-1, layer.shape[-1])
        assert len({int(alive[lane::4].sum()) for lane in range(4)}) == 1
    result.save(tmp_path / "a.eie.onnx")
    answers = [Session(tmp_path / "a.eie.onnx", b).run(None, {"x": x[:5]})[0] for b in ("cpu", "reference", "ort")]
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], rtol=1e-3, atol=1e-4)


def test_layers_are_reconstructed_where_there_are_no_labels(trained: onnx.ModelProto, blobs: Arrays) -> None:
    inputs = {"x": blobs["x"]}
    pruned, retrained = (
        optimize(trained, inputs, recipe(p), train=inputs)
        for p in (
            "prune{density=0.3,epochs=1,ramp=0};cluster;encode",
            "prune{density=0.3};cluster;retrain{rate=0.3};encode",
        )
    )
    assert retrained.verify.sqnr_db > pruned.verify.sqnr_db + 3


class Points:
    """Samples one by one, each with a scalar that is the same in all."""

    def __init__(self, data: Arrays) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data["x"])

    def __getitem__(self, index: int) -> Arrays:
        return {name: array[index] for name, array in self.data.items()} | {"gain": np.float32(1)}  # type: ignore[dict-item]


@pytest.mark.parametrize("batch", ["1", "N"])
def test_samples_one_by_one(blobs: Arrays, batch: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> main (float[{batch},16] x, float gain) => (float[{batch},4] y) {{
        louder = Mul(x, gain) [first] a = Gemm<transB=1>(louder, w) b = Relu(a) [last] y = Gemm<transB=1>(b, v) }}"""
    start = model(text, {"w": floats(32, 16, scale=0.3), "v": floats(4, 32, seed=1, scale=0.3)})
    settings = Settings(epochs=4, lr=0.01, optimizer="adam", batch=50)
    whole = {**blobs, "gain": np.float32(1)}
    one, other = (fit(start, data, settings).model.SerializeToString() for data in (Points(blobs), whole))
    assert one == other


def test_models_of_one_sample_a_run_are_trained_in_batches(blobs: Arrays) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[1,16] x) => (float[1,4] y) {
        [first] a = Gemm<transB=1>(x, w) b = Relu(a) c = Reshape(b, s) [last] d = Gemm<transB=1>(c, v) y = Softmax(d) }"""
    constants: Arrays = {"w": floats(32, 16, scale=0.3), "v": floats(4, 32, seed=1, scale=0.3), "s": np.int64([1, 32])}
    start = model(text, constants)
    found = fit(start, blobs, Settings(epochs=10, lr=0.01, optimizer="adam", batch=50))
    assert right(found.model, blobs) > 0.95 > right(start, blobs)


def test_distillation_follows_the_teacher(trained: onnx.ModelProto, blobs: Arrays) -> None:
    wrong = {"x": blobs["x"], "label": np.zeros_like(blobs["label"])}  # labels that say nothing: all is the teacher's
    passes = "prune{density=0.3};cluster;retrain{epochs=2,rate=0.2};encode"
    result = optimize(trained, blobs, recipe(passes, TRAIN + "distill = 1.0\n"), train=wrong)
    assert result.accuracy is not None and result.accuracy.after > 0.93


# -- runs --------------------------------------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
import numpy as np
from eie.compiler import Recipe, optimize
from eie.compiler.training import checkpoint

checkpoint._SHARE = 1e9  # write every epoch, however short

class Killer:
    def stage(self, name, steps): ...
    def step(self, what): ...
    def note(self, text):
        if text.startswith("retrain: epoch 3"):
            os.kill(os.getpid(), signal.SIGKILL)

data = dict(np.load(sys.argv[2]))
recipe = Recipe.parse(open(sys.argv[3]).read(), "test")
optimize(sys.argv[1], None, recipe, train=data, checkpoint=sys.argv[4], progress=Killer())
"""


def test_killed_and_resumed_it_gives_the_same_bytes(trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path) -> None:
    model_path, data, toml, folder = (tmp_path / n for n in ("m.onnx", "d.npz", "r.toml", "checkpoints"))
    onnx.save(trained, model_path)
    np.savez(data, **blobs)
    passes = "prune{density=0.2,epochs=4};cluster{bits=3};retrain{epochs=4,rate=0.2};encode"
    toml.write_text(f"passes = {json.dumps(passes.split(';'))}\n{TRAIN}threads = 1\n")
    (tmp_path / "run.py").write_text(KILLED)
    command = [sys.executable, *map(str, (tmp_path / "run.py", model_path, data, toml, folder))]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["phase-00.pt", "phase-01.pt"]
    heard: list[str] = []

    class Hearing:
        def stage(self, name: str, steps: int) -> None: ...
        def step(self, what: str) -> None: ...
        def note(self, text: str) -> None:
            heard.append(text.split(":")[0])

    for name, checkpoint in (("whole", None), ("parts", folder)):
        heard.clear()
        result = optimize(model_path, None, toml, train=data, checkpoint=checkpoint, progress=Hearing())
        result.save(tmp_path / name)
    assert heard.count("resumed") == 2 and heard[0] == "resumed"
    assert 1 <= heard.count("retrain") < 4 and set(heard) == {"resumed", "retrain"}  # only what was left
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_checkpoint_of_another_run_is_refused(trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path) -> None:
    first = recipe("prune{density=0.2,epochs=1};cluster;encode")
    optimize(trained, None, first, train=blobs, checkpoint=tmp_path)
    with pytest.raises(UserError, match="another run: not the same"):
        optimize(trained, None, recipe("prune{density=0.2,epochs=2};cluster;encode"), train=blobs, checkpoint=tmp_path)
    (tmp_path / "phase-00.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match="damaged"):
        optimize(trained, None, first, train=blobs, checkpoint=tmp_path)


class Dataset:
    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays["x"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: array[index] for name, array in self.arrays.items()}


@pytest.mark.parametrize("given", [dict, Dataset])
@pytest.mark.parametrize("name", ["x", "label"])
def test_any_byte_of_the_data_counts_for_a_checkpoint(
    trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path, given: Any, name: str
) -> None:
    passes = recipe("retrain{epochs=1};cluster;encode")
    optimize(trained, None, passes, train=given(blobs), checkpoint=tmp_path)
    again = optimize(trained, None, passes, train=given(blobs), checkpoint=tmp_path)
    assert again.learnt is not None and len(again.learnt.epochs) == 1
    for sample in (3, 598):
        other = {n: a.copy() for n, a in blobs.items()}
        other[name].reshape(len(other[name]), -1)[sample, 0] += (
            1 if name == "x" else (1 if other[name][sample] < 3 else -1)
        )
        with pytest.raises(UserError, match="another run: not the same"):
            optimize(trained, None, passes, train=given(other), checkpoint=tmp_path)


def test_a_trained_model_that_no_protocol_buffer_holds_is_written_with_external_data(
    trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = recipe("prune{density=0.3,epochs=1};cluster;encode")
    whole = optimize(trained, None, passes, train=blobs).trained
    assert whole is not None
    monkeypatch.setattr("eie.compiler.ir.writer.LIMIT", 1000)
    for module in ("analysis.fidelity", "analysis.judge"):
        monkeypatch.setattr(f"eie.compiler.{module}.INLINE_LIMIT", 1000)
    result = optimize(trained, None, passes, train=blobs)
    with pytest.raises(ModelError, match="do not fit"):
        _ = result.trained
    result.save_trained(tmp_path / "t.onnx")
    assert (tmp_path / "t.onnx.data").stat().st_size > 2000
    now, before = ({la.name: la.array() for la in find_layers(read(m))[0]} for m in (tmp_path / "t.onnx", whole))
    assert now.keys() == before.keys() == {"first", "second", "last"}
    assert all(np.array_equal(now[name], before[name]) for name in now)
    with pytest.raises(UserError, match="nothing was trained"):
        optimize(trained, None, passes).save_trained(tmp_path / "u.onnx")
    assert not (tmp_path / "u.onnx").exists()


class Runs:
    """What a stranger would put into a checkpoint: reading it with pickle makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def _spoil(path: Path, how: str) -> None:
    held = torch.load(path, weights_only=True)
    if how == "a bit of a weight":
        content = path.read_bytes()
        weight = held["network"][next(k for k, v in held["network"].items() if v.numel() > 100)]
        at = content.index(weight.numpy().tobytes())
        path.write_bytes(content[: at + 40] + bytes([content[at + 40] ^ 64]) + content[at + 41 :])
    elif how == "its structure":
        with zipfile.ZipFile(path) as archive:
            parts = {n: archive.read(n) for n in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():  # pickle's STOP comes before anything was made
                archive.writestr(name, b"." + part if name.endswith("data.pkl") else part)
    else:
        torch.save({"a bare tensor": torch.ones(3), "no network": {"fingerprint": held["fingerprint"]},
                    "code": held | {"network": Runs(path.parent / "ran")}}[how], path)  # fmt: skip


@pytest.mark.parametrize("how", ["a bit of a weight", "its structure", "a bare tensor", "no network", "code"])
def test_a_spoilt_checkpoint_is_refused(trained: onnx.ModelProto, blobs: Arrays, tmp_path: Path, how: str) -> None:
    first = recipe("prune{density=0.2,epochs=1};cluster;encode")
    optimize(trained, None, first, train=blobs, checkpoint=tmp_path)
    _spoil(tmp_path / "phase-00.pt", how)
    with pytest.raises(UserError, match="damaged"):
        optimize(trained, None, first, train=blobs, checkpoint=tmp_path)
    assert not (tmp_path / "ran").exists()


class Dataset:
    def __init__(self, odd: Any) -> None:
        self.odd = odd

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        if i == 7 and isinstance(self.odd, Exception):
            raise self.odd
        return self.odd if i == 7 else {"x": np.zeros(16, np.float32), "label": 0}


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (ValueError("no such picture"), r"raised ValueError: no such picture \(test_training.py"),
        ({"x": np.zeros(15, np.float32), "label": 0}, "sample 7 has float32 \\[15\\] for 'x', and sample 0 float32 \\[16\\]"),
        ({"x": np.zeros(16, np.float32)}, "sample 7 has none for 'label'"),
    ],
)
def test_a_dataset_that_fails(mlp: onnx.ModelProto, odd: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        optimize(mlp, None, recipe("retrain{epochs=1};cluster;encode"), train=Dataset(odd))


@pytest.mark.parametrize("dtype", ["U1", "datetime64[s]", "complex64", ">i8"])
def test_labels_that_are_no_plain_numbers(mlp: onnx.ModelProto, blobs: Arrays, dtype: str) -> None:
    with pytest.raises(UserError, match="takes plain numbers"):
        load({"x": blobs["x"], "label": blobs["label"].astype(dtype)}, read(mlp), validation=0.1, seed=0)


def test_the_same_seed_gives_the_same_weights(mlp: onnx.ModelProto, blobs: Arrays) -> None:
    one, two, other = (
        fit(mlp, blobs, Settings(epochs=2, lr=0.01, optimizer="adam", seed=s)).model.SerializeToString()
        for s in (1, 1, 2)
    )
    assert one == two != other


def test_it_stops_when_nothing_gets_better(trained: onnx.ModelProto, blobs: Arrays) -> None:
    settings = Settings(epochs=50, lr=0.0, optimizer="sgd", batch=100, patience=3)
    assert len(fit(trained, blobs, settings).epochs) == 4


def test_validation_is_never_trained_on_and_follows_from_the_seed(mlp: onnx.ModelProto, blobs: Arrays) -> None:
    graph = read(mlp)
    numbered = {"x": blobs["x"].copy(), "label": blobs["label"]}
    numbered["x"][:, 0] = np.arange(600)
    parts = [load(numbered, graph, validation=0.2, seed=s) for s in (0, 0, 1)]
    held = [set(p.validation.take(np.arange(len(p.validation)))["x"][:, 0].tolist()) for p in parts]
    used = set(parts[0].train.take(np.arange(len(parts[0].train)))["x"][:, 0].tolist())
    assert len(held[0]) == 120 and held[0] == held[1] != held[2]
    assert not held[0] & used and len(used) == 480


def test_schedules() -> None:
    assert schedule(Settings(schedule="constant"), 0.9) == 1
    assert schedule(Settings(schedule="linear"), 0.25) == 0.75
    assert schedule(Settings(schedule="cosine"), 0.5) == pytest.approx(0.5)
    assert [schedule(Settings(schedule="step"), d) for d in (0.4, 0.6, 0.9)] == [1.0, 0.1, 0.01]
    assert schedule(Settings(warmup=0.2), 0.1) == pytest.approx(0.5, abs=0.01)


# -- the user's own ---------------------------------------------------------------------------------------------------------

OWN = """
import numpy as np
import torch

class Points:
    def __init__(self):
        self.data = dict(np.load({path!r}))
    def __len__(self):
        return len(self.data["label"])
    def __getitem__(self, i):
        return {{"x": self.data["x"][i], "label": self.data["label"][i], "importance": np.float32(1)}}

def points():
    return Points()

def arrays():
    return dict(np.load({path!r}))

def loss(outputs, batch):
    each = torch.nn.functional.cross_entropy(outputs["y"], batch["label"], reduction="none")
    return (each * batch["importance"]).mean()
"""


@pytest.mark.parametrize("source", ["points", "arrays"])
def test_functions_of_the_users(mlp: onnx.ModelProto, blobs: Arrays, tmp_path: Path, source: str) -> None:
    np.savez(tmp_path / "d.npz", **blobs)
    own = tmp_path / "own.py"
    own.write_text(OWN.format(path=str(tmp_path / "d.npz")))
    loss = f"{own}:loss" if source == "points" else None
    result = optimize(
        mlp, blobs, recipe("retrain{epochs=6};cluster{bits=8};encode"), train=f"{own}:{source}", loss=loss
    )
    assert result.accuracy is not None and result.accuracy.after > 0.9


BAD: list[tuple[str, dict[str, Any], str]] = [
    (
        "retrain;cluster;encode",
        {"train": {"x": floats(5, 3), "label": np.zeros(5, np.int64)}},
        "does not run on this input",
    ),
    ("retrain;cluster;encode", {"train": {"z": floats(5, 16)}}, "no array for input 'x'"),
    ("retrain;cluster;encode", {"train": {"x": floats(5, 16).astype(np.float64)}}, "float64"),
    ("retrain;cluster;encode", {"train": {"x": floats(5, 16), "labels": np.zeros(5)}}, "Did you mean 'label'"),
    ("retrain;cluster;encode", {"train": {"x": floats(0, 16)}}, "no samples"),
    ("retrain;cluster;encode", {"train": {"x": floats(5, 16), "label": np.zeros(4, np.int64)}}, "different numbers"),
    ("retrain;cluster;encode", {"train": {"x": floats(5, 16), "label": np.full(5, 4)}}, "tells 4 classes apart"),
    ("retrain;cluster;encode", {"train": {"x": floats(5, 16), "label": np.zeros(5)}}, "Class numbers are whole"),
    ("retrain;cluster;encode", {"train": "nowhere.py:data"}, "no such file"),
    ("retrain;cluster;encode", {"train": "json:data"}, "no function 'data'"),
    ("cluster;encode", {"train": {"x": floats(5, 16)}}, "no pass of the recipe test learns"),
    ("retrain;cluster;encode", {"loss": "a:b"}, "no training data"),
    ("retrain;cluster;encode", {"checkpoint": "folder"}, "no training data"),
]


@pytest.mark.parametrize(("passes", "given", "text"), BAD)
def test_what_does_not_fit_is_said(mlp: onnx.ModelProto, passes: str, given: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        optimize(mlp, None, recipe(passes), **given)


def test_without_torch_the_extra_is_named(mlp: onnx.ModelProto, blobs: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eie.compiler.training.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'eie\[train\]'"):
        optimize(mlp, None, recipe("retrain;cluster;encode"), train=blobs)
    with pytest.raises(UserError, match=r"pip install 'eie\[train\]'"):
        fit(mlp, blobs)
    assert optimize(mlp, None, recipe("retrain;cluster;encode")).untrained == ["retrain"]


@pytest.mark.parametrize(
    "learning", ["prune{density=0.25}", "share{bits=3}", "ttq{ends=too}", "dsd{density=0.25};retrain"]
)
def test_a_table_that_a_rule_names_is_trained_as_a_layer_once(blobs: Arrays, learning: str) -> None:
    table = np.cos(np.pi / 16 * (np.arange(16)[None] + 0.5) * np.arange(16)[:, None]).astype(np.float32)
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,16] x) => (float[N,4] y) {
        [spectrum] s = MatMul(x, table) r = Relu(s) [last] y = Gemm<transB=1>(r, w, b) }"""
    proto = model(text, {"table": table, "w": floats(4, 16), "b": floats(4)})
    rule = '[[rule]]\nmatch = "spectrum"\nskip = false\n'
    result = optimize(proto, None, recipe(f"{learning};cluster;encode", rule + TRAIN), train=blobs)
    assert {row.name for row in result.layers} == {"spectrum", "last"}
    assert result.trained is not None
    layers = {la.name: la.array() for la in find_layers(read(result.trained), lambda name: True)[0]}
    assert not np.array_equal(layers["spectrum"], table.T)
    if "density" in learning and "dsd" not in learning:
        assert np.mean(layers["spectrum"] != 0) == pytest.approx(0.25, abs=0.01)


def test_only_what_a_gradient_reaches_can_be_trained(blobs: Arrays) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,16] x) => (float[N,4] y) {
        [first] a = Gemm<transB=1>(x, w) [rounding] y = Round(a) }"""
    with pytest.raises(UserError, match=r"nothing can be trained: Round \(rounding\) has no gradient"):
        fit(model(text, {"w": floats(4, 16)}), blobs, Settings(epochs=1))


def test_what_no_gradient_reaches_stays_and_is_named(blobs: Arrays) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> main (float[N,16] x) => (float[N,4] y) {
        [first] a = Gemm<transB=1>(x, w) [rounding] r = Round(a) [last] y = Gemm<transB=1>(r, v) }"""
    start = model(text, {"w": floats(16, 16), "v": floats(4, 16)})
    result = optimize(start, blobs, recipe("retrain{epochs=3};cluster{bits=8};encode"), train=blobs)
    assert result.json()["training"]["not_trained"] == {"w": "Round (rounding) has no gradient"}
    now, before = ({la.name: la.array() for la in find_layers(read(m))[0]} for m in (result.trained, start))  # type: ignore[arg-type]
    np.testing.assert_array_equal(now["first"], before["first"])
    assert not np.array_equal(now["last"], before["last"])


def test_a_loss_that_explodes_is_said(mlp: onnx.ModelProto, blobs: Arrays) -> None:
    values = {"x": blobs["x"], "label": floats(600, 4)}
    with pytest.raises(UserError, match="not finite in epoch"):
        fit(mlp, values, Settings(epochs=9, lr=100.0, optimizer="sgd"))


def test_settings_are_checked_and_written_back() -> None:
    found = recipe("prune{density=0.1};cluster;encode")
    assert found.train is not None and found.train.optimizer == "adam"
    for every in (False, True):
        assert Recipe.parse(found.to_toml(every=every), "test") == found
    for text, message in (("lr = -1", "outside"), ('optimizer = "magic"', "none of"), ("epoch = 3", "Did you mean 'epochs'"),
                          ("epochs = 1.5", "whole number")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            Recipe.parse(f'passes = ["encode"]\n[train]\n{text}', "test")


def test_a_few_samples_more_do_not_decide_for_an_epoch_that_has_not_learnt_enough(
    mlp: onnx.ModelProto, blobs: Arrays
) -> None:
    graph = read(mlp)
    training = Training(graph, load(blobs, graph, validation=200 / 600, seed=0), Settings())
    phase = _Phase(training, assemble(graph, find_layers(graph)[0], {}), "p", 9, 1.0, None, 0.0)

    def kept(*judged: tuple[float, float]) -> int:
        return phase._best([Epoch("p", i, 0, 0, 0, loss, right, 0) for i, (right, loss) in enumerate(judged)]).epoch

    assert kept((0.995, 0.33), (0.985, 0.2), (0.99, 0.12)) == 2  # one recording of 200
    assert kept((0.90, 0.5), (0.98, 0.6), (0.94, 0.1)) == 1  # eight of them
    assert kept((0.90, 0.2), (0.91, 0.3), (0.96, 0.4)) == 2
    assert kept((1.0, 0.3), (1.0, 0.2), (0.9951, 0.1)) == 2
