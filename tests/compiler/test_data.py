"""Samples: slicing the user's arrays into runs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from eie.compiler.data import Input, load_npz, named_arrays, save_npz, split
from eie.compiler.errors import UserError

IMAGE = Input("x", (None, 1, 4, 4))
ONE = Input("x", (1, 1, 4, 4))


def test_open_batch_is_cut_into_batches() -> None:
    x = np.arange(5 * 16, dtype=np.float32).reshape(5, 1, 4, 4)
    feeds, labels = split({"x": x, "label": np.arange(5)}, [IMAGE], batch=2)
    assert [len(f["x"]) for f in feeds] == [2, 2, 1]
    assert labels is not None
    np.testing.assert_array_equal(np.concatenate([f["x"] for f in feeds]), x)
    np.testing.assert_array_equal(labels, np.arange(5))


def test_a_batch_of_one_is_fed_sample_by_sample() -> None:
    feeds, _ = split({"x": np.zeros((3, 1, 4, 4))}, [ONE], batch=64)
    assert [f["x"].shape for f in feeds] == [(1, 1, 4, 4)] * 3


def test_a_stack_of_whole_inputs() -> None:
    feeds, _ = split({"x": np.arange(6).reshape(3, 2)}, [Input("x", (2,))])
    assert [list(f["x"]) for f in feeds] == [[0, 1], [2, 3], [4, 5]]


def test_a_stack_of_scalars() -> None:
    feeds, _ = split({"x": np.array([True, False])}, [Input("x", ())])
    assert [type(f["x"]) for f in feeds] == [np.ndarray] * 2  # ONNX Runtime takes no numpy scalars
    assert [f["x"].shape for f in feeds] == [()] * 2


def test_a_fixed_batch_takes_as_many_at_a_time() -> None:
    feeds, labels = split({"x": np.zeros((8, 3)), "label": np.zeros(8)}, [Input("x", (4, 3))], batch=64)
    assert [f["x"].shape for f in feeds] == [(4, 3)] * 2
    assert labels is not None
    assert len(labels) == 8


def test_what_does_not_count_samples_goes_into_every_run() -> None:
    inputs = [Input("x", (None, 3)), Input("state", (2, None, 4)), Input("rate", ())]
    data = {"x": np.zeros((5, 3)), "state": np.ones((2, 1, 4)), "rate": np.array(16_000)}
    feeds, labels = split(data, inputs)
    assert labels is None
    assert len(feeds) == 5
    assert all(f["state"].shape == (2, 1, 4) and f["rate"] == 16_000 for f in feeds)


def test_states_that_lack_their_batch_axis() -> None:
    inputs = [Input("x", (1, 7)), Input("state", (2, None, 4))]
    x, state = np.zeros((6, 7)), np.arange(48.0).reshape(6, 2, 4)
    with pytest.raises(UserError) as raised:
        split({"x": x, "state": state}, inputs)
    assert "'x' of [6, 7] holds 6 of [1, 7], 'state' of [6, 2, 4] holds 3 of [2, ?, 4]" in str(raised.value)
    assert "Give 'state' as [6, 2, 1, 4]" in str(raised.value)
    feeds, _ = split({"x": x, "state": state[:, :, None]}, inputs)
    assert len(feeds) == 6
    np.testing.assert_array_equal(feeds[4]["state"], state[4][:, None])


def test_one_sample() -> None:
    feeds, _ = split({"x": np.zeros((1, 1, 4, 4))}, [ONE])
    assert len(feeds) == 1
    assert feeds[0]["x"].shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"y": np.zeros(3)}, "no array for input 'x'"),
        ({"x": np.zeros((5, 1, 4, 4)), "label": np.zeros(4)}, "4 labels for 5 samples"),
    ],
)
def test_what_is_refused(data: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(UserError, match=says):
        split(data, [IMAGE])


def test_types_are_not_guessed() -> None:
    with pytest.raises(UserError, match=r"float64, and the input takes float32. Convert it with .astype\(np.float32\)"):
        split({"x": np.zeros((5, 2))}, [Input("x", (None, 2), np.dtype(np.float32))])


@pytest.mark.parametrize("labels", [np.array(["a", "b"]), np.array([0, np.nan]), np.array([0.5, 1]), np.array([1j, 0])])
def test_labels_are_class_numbers(labels: np.ndarray) -> None:
    with pytest.raises(UserError, match="no class numbers"):
        split({"x": np.zeros((2, 1, 4, 4)), "label": labels}, [IMAGE])


def test_no_samples() -> None:
    for data in ({"x": np.zeros((0, 2))}, {"x": np.zeros((0, 2)), "label": np.zeros(0)}):
        with pytest.raises(UserError, match="no samples"):
            split(data, [Input("x", (None, 2))])


def header(text: str) -> bytes:
    """An .npy file with this header."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "member",
    [
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': ((((,), }"),
        header("{'descr': '<f4', 'shape': (-1,), }"),
        header("{'descr': [('a'), 3], 'fortran_order': False, 'shape': (1,), }"),
        header("'" * 3),
        b"\x93NUMPY",
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, member: bytes) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(UserError, match="can't read the arrays"):
        load_npz(path)


def test_archives_numpy_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(3))
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    for place, value in ((6, 1), (8, 99)):  # encrypted; a compression nobody knows
        damaged = content.copy()
        damaged[place] = damaged[central + place + 2] = value
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="can't read the arrays"):
            load_npz(path)
    np.savez_compressed(path, x=np.arange(1000))
    damaged = bytearray(path.read_bytes())
    damaged[60:80] = b"\xff" * 20
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="can't read the arrays"):
        load_npz(path)


def test_any_output_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "y.npz"
    values = {"file": np.arange(2), "allow_pickle": np.float32(1), "/a/b": np.zeros((0, 2)), "s": [np.ones(1), np.ones(2)],
              "t": np.array(["ab", "c"], object)}  # fmt: skip
    save_npz(path, named_arrays(values.items()))
    found = load_npz(path)
    assert list(found) == ["file", "allow_pickle", "/a/b", "s.0", "s.1", "t"]
    assert found["t"].tolist() == ["ab", "c"]
    assert found["s.1"].shape == (2,)
    with pytest.raises(UserError, match="is a dict"):
        named_arrays([("z", [{1: 0.5}])])


def test_two_counts_are_refused() -> None:
    inputs = [Input("a", (None, 2)), Input("b", (None, 2))]
    with pytest.raises(UserError, match="different numbers"):
        split({"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}, inputs)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(UserError, match="can't read"):
        load_npz(path)
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match="can't read"):
        load_npz(path)
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="can't read"):
        load_npz(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="one bare array"):
        load_npz(tmp_path / "one.npy")
    np.savez(path, x=np.arange(3))
    np.testing.assert_array_equal(load_npz(path)["x"], np.arange(3))
