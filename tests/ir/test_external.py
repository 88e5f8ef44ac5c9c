"""Tensors in files of their own: where they may lie, what damage says, and that large ones are mapped and not loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from eie.compiler.errors import ModelError, UserError
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import verify
from eie.compiler.ir.writer import save, size_of, to_proto

W = np.arange(600, dtype=np.float32).reshape(20, 30)


def model_with(
    data_type: int = onnx.TensorProto.FLOAT, dims: tuple[int, ...] = (20, 30), **entries: object
) -> onnx.ModelProto:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,20] x) => (float[N,30] y) { y = MatMul(x, w) }'
    )
    tensor = model.graph.initializer.add(name="w", data_type=data_type, dims=dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def written(folder: Path, model: onnx.ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "location, entries, before",
    [
        ("w.bin", {}, b""),
        ("deep/er/w.bin", {}, b""),
        ("./w.bin", {}, b""),
        ("w.bin", {"offset": 4096}, bytes(4096)),
        ("w.bin", {"offset": 3}, bytes(3)),  # not where a float may lie
        ("w.bin", {"offset": 8, "length": W.nbytes}, bytes(8)),
        ("w.bin", {"checksum": "not looked at"}, b""),
    ],
)
def test_where_it_may_lie(tmp_path: Path, location: str, entries: dict[str, object], before: bytes) -> None:
    data = tmp_path / "model" / location
    data.parent.mkdir(parents=True)
    data.write_bytes(before + W.tobytes() + b"more")
    if "length" not in entries and not before:
        data.write_bytes(W.tobytes())
    model = read(written(tmp_path / "model", model_with(location=location, **entries)))
    verify(model)
    np.testing.assert_array_equal(model.graph.constants["w"].array(), W)
    assert not model.graph.constants["w"].array().flags.writeable or before == bytes(3)


@pytest.mark.parametrize(
    "location",
    ["../w.bin", "a/../../w.bin", "/etc/hostname", "", ".", "..", "link/w.bin", "link.bin", "a/../w.bin", "//w.bin"],
)
def test_outside_of_the_folder(tmp_path: Path, location: str) -> None:
    for name in ("w.bin", "model/w.bin", "other/w.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(W.tobytes())
    (tmp_path / "model" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "w.bin")
    path = written(tmp_path / "model", model_with(location=location))
    with pytest.raises(ModelError, match="outside the model's folder") as caught:
        read(path)
    assert caught.value.where == f"{path}, tensor 'w'"


def test_links_within_the_folder_and_within_a_store(tmp_path: Path) -> None:
    """Model hubs keep files under their hash, and a folder of links with their names."""
    store, view = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    view.mkdir()
    (store / "hash1").write_bytes(model_with(location="w.bin").SerializeToString())
    (store / "hash2").write_bytes(W.tobytes())
    (view / "m.onnx").symlink_to("../blobs/hash1")
    (view / "w.bin").symlink_to("../blobs/hash2")
    np.testing.assert_array_equal(read(view / "m.onnx").graph.constants["w"].array(), W)
    (tmp_path / "elsewhere").write_bytes(W.tobytes())
    (view / "w.bin").unlink()
    (view / "w.bin").symlink_to("../elsewhere")
    with pytest.raises(ModelError, match="outside"):
        read(view / "m.onnx")


FLOAT, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.STRING


@pytest.mark.parametrize(
    "model, says",
    [
        (model_with(location="missing.bin"), "can't read its data file 'missing.bin'"),
        (model_with(location="x" * 5000), "can't read its data file"),
        (model_with(location="w\0.bin"), "can't read its data file"),
        (model_with(location="circle"), "can't read its data file"),
        (model_with(location="folder"), "can't read its data file"),
        (model_with(location="empty.bin"), "needs 2,400 bytes from 0, but empty.bin holds 0"),
        (model_with(location="w.bin", offset=4), "needs 2,400 bytes from 4, but w.bin holds 2,400"),
        (model_with(location="w.bin", offset=-4), "needs 2,400 bytes from -4"),
        (model_with(location="w.bin", offset=10**30), "needs 2,400 bytes from 1,000"),
        (model_with(location="w.bin", length=2396), "2,396 are announced"),
        (model_with(location="w.bin", length=-1), "-1 are announced"),
        (model_with(location="w.bin", offset="four"), "not valid: invalid literal"),
        (model_with(FLOAT, (20, 31), location="w.bin"), "needs 2,480 bytes"),
        (model_with(FLOAT, (-20, 30), location="w.bin"), "not valid: dimension -20"),
        (model_with(FLOAT, (2**62, 2**62), location="w.bin"), "needs"),
        (model_with(STRING, (20, 30), location="w.bin"), "strings can't lie in another file"),
        (model_with(0, (20, 30), location="w.bin"), "not valid"),
        (model_with(99, (20, 30), location="w.bin"), "not valid"),
    ],
)
def test_damage(tmp_path: Path, model: onnx.ModelProto, says: str) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "empty.bin").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    path = written(tmp_path, model)
    with pytest.raises(ModelError, match=says) as caught:
        read(path)
    assert caught.value.where == f"{path}, tensor 'w'"


def test_a_model_in_memory_has_no_folder() -> None:
    with pytest.raises(ModelError, match="lies in another file"):
        read(model_with(location="w.bin"))


def test_nothing_of_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").touch()
    model = read(written(tmp_path, model_with(FLOAT, (0, 30), location="w.bin", length=0)))
    verify(model)
    assert model.graph.constants["w"].array().shape == (0, 30)


KINDS = ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT64", "UINT8", "BOOL", "INT4", "UINT4", "FLOAT8E5M2"]


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_save_and_read_again(tmp_path: Path, kind: str, typed: bool) -> None:
    """In every form a constant may have: raw bytes, a typed field, numpy."""
    data_type = onnx.TensorProto.DataType.Value(kind)
    values = np.arange(5001) % 2
    array = values.astype(helper.tensor_dtype_to_np_dtype(data_type))
    tensor = helper.make_tensor("w", data_type, [5001], values) if typed else numpy_helper.from_array(array, "w")
    proto = parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g () => (int64[1] y) { y = Shape(w) }')
    proto.graph.initializer.append(tensor)
    model = read(proto)
    for content in (None, array):
        if content is not None:
            model.graph.constants["w"].replace(content)
        written_bytes = save(model, tmp_path / "m.onnx", external=True)
        assert written_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
        again = read(tmp_path / "m.onnx")
        verify(again)
        constant = again.graph.constants["w"]
        assert constant.data_type == data_type
        np.testing.assert_array_equal(constant.array().astype(float), values)
        onnx.checker.check_model(tmp_path / "m.onnx")
        np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0]), array)


def test_small_tensors_and_strings_stay_in_the_model(tmp_path: Path) -> None:
    proto = parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g () => (int64[1] y) { y = Shape(w) }')
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(10, np.float32), "w"))
    proto.graph.initializer.append(helper.make_tensor("t", STRING, [1000], [b"some text"] * 1000))
    save(read(proto), tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").stat().st_size == 0
    assert len(read(tmp_path / "m.onnx").graph.constants) == 2


def test_a_mapped_model_can_be_saved_over_itself(tmp_path: Path) -> None:
    (tmp_path / "m.onnx.data").write_bytes(W.tobytes())
    path = written(tmp_path, model_with(location="m.onnx.data"))
    model = read(path)
    save(model, path, external=True)
    np.testing.assert_array_equal(model.graph.constants["w"].array(), W)  # the old file lives as long as its map
    np.testing.assert_array_equal(read(path).graph.constants["w"].array(), W)


def test_nothing_is_left_of_what_can_not_be_written(tmp_path: Path) -> None:
    model = read(
        parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = Neg(x) }')
    )
    (tmp_path / "folder.onnx").mkdir()
    for path in (tmp_path / "folder.onnx", tmp_path / "no" / "such" / "m.onnx"):
        for external in (False, True):
            with pytest.raises(UserError, match="can't write") as caught:
                save(model, path, external=external)
            assert caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["folder.onnx"]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    model = read(
        parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = Neg(x) }')
    )
    path = tmp_path / "m.onnx"
    path.write_text("before")
    model.graph.nodes[0].inputs[0] = "\udc80"  # no UTF-8: serializing it fails
    with pytest.raises(UnicodeEncodeError):
        save(model, path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


# -- large -----------------------------------------------------------------------------------------------------------------

LARGE = """
import resource, sys
from eie.compiler.ir.reader import read
from eie.compiler.ir.verifier import verify
from eie.compiler.ir.printer import to_text
from eie.compiler.ir.writer import size_of, to_proto
from eie.compiler.errors import ModelError

idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = read(sys.argv[1])
verify(model)
assert to_text(model)
assert model.graph.constants["w1"].array()[5, 7] == 0
assert size_of(model) == 3 << 30
try:
    to_proto(model)
except ModelError as error:
    assert "do not fit one protocol buffer" in str(error)
else:
    raise SystemExit("a model of 3 GiB as protocol buffer")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle)
"""


def test_more_than_a_protocol_buffer_holds(tmp_path: Path) -> None:
    """3 GiB of tensors in a sparse file: opened, verified, printed, and hardly any memory taken."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,16384] x) => (float[N,16384] y) { y = Neg(x) }'
    )
    del model.graph.node[:]
    rows, tensors = 16384, 3
    for i in range(tensors):
        model.graph.node.add(
            op_type="MatMul", input=[f"x{i}" if i else "x", f"w{i}"], output=[f"x{i + 1}" if i + 1 < tensors else "y"]
        )
        tensor = model.graph.initializer.add(name=f"w{i}", data_type=FLOAT, dims=[rows, rows])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", i * rows * rows * 4), ("length", rows * rows * 4)):
            tensor.external_data.add(key=key, value=str(value))
    with (tmp_path / "w.bin").open("wb") as stream:
        stream.truncate(tensors * rows * rows * 4)
    path = written(tmp_path, model)
    done = subprocess.run([sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 << 10  # KiB
    assert size_of(read(path)) == tensors * rows * rows * 4


def test_one_file_where_one_can_hold_it(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    model = read(written(tmp_path, model_with(location="w.bin")))
    assert save(model, tmp_path / "one.onnx") == size_of(model) == (tmp_path / "one.onnx").stat().st_size
    proto = to_proto(model)
    assert proto.graph.initializer[0].raw_data == W.tobytes()
    assert not proto.graph.initializer[0].external_data
