"""Real samples for the models that others made: digits, keywords, sound and images, drawn anew for each draw.

``draw`` picks what is calibrated on; what is judged on is always the same and comes from other recordings, other images, other digits.
Images: photographs that scikit-image and scikit-learn install, and any folder of more (``EIE_IMAGES``); the first are judged on,
those of the folder calibrated on (without it, half of the first).
"""

from __future__ import annotations

import io
import os
import sys
import wave
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import mnist

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

SHARED = Path(os.environ.get("EIE_SHARED", Path(__file__).parents[2] / "shared")) / "data"
MODELS = SHARED / "models"
CALIBRATE = 512
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg", "ihc.png",
               "hubble_deep_field.jpg", "camera.png", "grass.png", "gravel.png", "brick.png", "coins.png",
               "china.jpg", "flower.jpg")  # fmt: skip


def session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(MODELS / f"{name}.onnx"), options)


# -- labelled ------------------------------------------------------------------------------------------------------------


def digits(name: str, draw: int) -> tuple[Arrays, Arrays]:
    scale = np.float32(255 if name == "mnist-cntk" else 1)
    tensor = session(name).get_inputs()[0].name
    train, _ = mnist.load(SHARED / "mnist", "train")
    test, labels = mnist.load(SHARED / "mnist", "test5k")
    picked = np.random.default_rng(draw).permutation(len(train))[:CALIBRATE]
    return {tensor: train[picked] * scale}, {tensor: test * scale, "label": labels}


def keywords(name: str, draw: int) -> tuple[Arrays, Arrays]:
    with np.load(SHARED / "kws01" / "kws01_first500.npz") as held:
        arrays = {key: held[key] for key in held.files}
    inputs = next(v for v in arrays.values() if v.ndim > 1)
    labels = next(v for v in arrays.values() if v.ndim == 1)
    info = session(name).get_inputs()[0]
    x = ((inputs.astype(np.float32) - 83) * np.float32(0.5847029)) if inputs.dtype == np.int8 else inputs
    x = x.astype(np.float32).reshape(len(x), *info.shape[1:])
    order = np.random.default_rng(draw).permutation(len(x))
    return {info.name: x[order[:250]]}, {info.name: x[order[250:]], "label": labels[order[250:]]}


# -- images --------------------------------------------------------------------------------------------------------------


def photographs() -> tuple[list[Array], list[Array]]:
    """RGB images to calibrate on and to judge on."""
    import skimage
    import sklearn.datasets
    from PIL import Image

    folders = [Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"]
    found = [folder / name for name in PHOTOGRAPHS for folder in folders if (folder / name).exists()]
    more = os.environ.get("EIE_IMAGES")
    others = sorted(p for p in Path(more).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"}) if more else []
    calibrate, judge = (others, found) if others else (found[1::2], found[::2])
    return [_rgb(Image, p) for p in calibrate], [_rgb(Image, p) for p in judge]


def _rgb(module: Any, path: Path) -> Array:
    with module.open(path) as image:
        image = image.convert("RGB")
        image.thumbnail((1200, 1200))
        return np.asarray(image)


def crops(images: list[Array], size: tuple[int, int], count: int, seed: int) -> Iterator[Array]:
    """uint8 [height, width, 3]: a third to all of an image's shorter side, half of them mirrored."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for k in range(count):
        image = images[k % len(images)]
        side = int(min(image.shape[:2]) * rng.uniform(0.35, 1.0))
        height, width = (side, min(image.shape[1], side * size[1] // size[0]))
        top, left = rng.integers(0, image.shape[0] - height + 1), rng.integers(0, image.shape[1] - width + 1)
        part = image[top : top + height, left : left + width]
        part = part[:, ::-1] if rng.random() < 0.5 else part
        yield np.asarray(Image.fromarray(part).resize(size[::-1], Image.Resampling.BILINEAR))


def pictures(name: str, draw: int, *, size: tuple[int, int], of: Callable[[Array], Array], judge: int = 300,
             calibrate: int = CALIBRATE) -> tuple[Arrays, Arrays]:  # fmt: skip
    info = session(name).get_inputs()[0]
    kind = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}.get(info.type, np.float32)
    ours, theirs = photographs()
    made = [
        np.stack([of(c) for c in crops(images, size, count, seed)]).astype(kind)
        for images, count, seed in ((ours, calibrate, 100 + draw), (theirs, judge, 7))
    ]
    return {info.name: made[0]}, {info.name: made[1]}


def bgr(crop: Array) -> Array:
    return (crop[:, :, ::-1].astype(np.float32) - (104, 117, 123)).transpose(2, 0, 1)


def centred(crop: Array) -> Array:
    return ((crop.astype(np.float32) - 127) / 128).transpose(2, 0, 1)


def unit(crop: Array) -> Array:
    return crop.astype(np.float32).transpose(2, 0, 1) / 255


# -- sound ---------------------------------------------------------------------------------------------------------------


def sound(path: Path | io.BytesIO, rate: int) -> Array:
    """Mono, float32 in -1..1, at ``rate``, by linear interpolation."""
    with wave.open(str(path) if isinstance(path, Path) else path) as stream:
        own, width, channels = stream.getframerate(), stream.getsampwidth(), stream.getnchannels()
        frames = np.frombuffer(stream.readframes(stream.getnframes()), f"<i{width}")
    x = frames.reshape(-1, channels).mean(1) / float(1 << (8 * width - 1))
    at = np.arange(int(len(x) * rate / own)) * own / rate
    return np.interp(at, np.arange(len(x)), x).astype(np.float32)


def spoken(rate: int, seconds: float, seed: int) -> Array:
    """Spoken digits, one after another."""
    with zipfile.ZipFile(SHARED / "audio" / "fsdd.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".wav"))
        rng, parts, held = np.random.default_rng(seed), [], 0
        while held < seconds * rate:
            part = sound(io.BytesIO(archive.read(names[int(rng.integers(len(names)))])), rate)
            parts += [part, np.zeros(rate // 5, np.float32)]
            held += len(part) + rate // 5
    return np.concatenate(parts)[: int(seconds * rate)]


def voice(name: str, draw: int) -> tuple[Arrays, Arrays]:
    """Silero: 512 samples after 64 of context, with the state that the original had then."""
    run = session(name)

    def frames(x: Array) -> Arrays:
        state, found = np.zeros((2, 1, 128), np.float32), []
        for k in range(64, len(x) - 512, 512):
            piece = x[None, k - 64 : k + 512]
            found.append((piece, state))
            state = run.run(["stateN"], {"input": piece, "state": state, "sr": np.array(16000)})[0]
        return {"input": np.stack([f[0] for f in found]), "state": np.stack([f[1] for f in found])}

    real = sound(SHARED / "audio" / "silero-vad-test-16k.wav", 16000)
    cut = len(real) // 2
    calibrate, judge = frames(real[:cut]), frames(np.concatenate([real[cut:], spoken(16000, 20, 99)]))
    picked = np.sort(np.random.default_rng(draw).permutation(len(calibrate["input"]))[:CALIBRATE])
    sr = {"sr": np.array(16000)}
    return {k: v[picked] for k, v in calibrate.items()} | sr, {k: v[::2] for k, v in judge.items()} | sr


def denoiser(name: str, draw: int) -> tuple[Arrays, Arrays]:
    """DTLN: magnitudes of 512 samples every 128, with the state that the original had then."""
    run = session(name)
    a, b = (i.name for i in run.get_inputs())
    outputs = [o.name for o in run.get_outputs()]

    def frames(x: Array) -> Arrays:
        state, found = np.zeros((1, 2, 128, 2), np.float32), []
        for k in range(0, len(x) - 512, 128):
            piece = np.abs(np.fft.rfft(x[k : k + 512]))[None, None].astype(np.float32)
            found.append((piece, state))
            state = run.run([outputs[1]], {a: piece, b: state})[0]
        return {a: np.stack([f[0] for f in found]), b: np.stack([f[1] for f in found])}

    real = sound(SHARED / "audio" / "silero-vad-test-16k.wav", 16000)
    noise = np.random.default_rng(5).normal(0, 0.01, len(real)).astype(np.float32)
    cut = len(real) // 2
    calibrate, judge = frames((real + noise)[:cut]), frames((real + noise)[cut:][: 16000 * 15])
    picked = np.sort(np.random.default_rng(draw).permutation(len(calibrate[a]))[:CALIBRATE])
    return {k: v[picked] for k, v in calibrate.items()}, {k: v[::4] for k, v in judge.items()}


def music(name: str, draw: int) -> tuple[Arrays, Arrays]:
    """Basic Pitch: two seconds at a time."""
    info = session(name).get_inputs()[0]
    sung, length = sound(SHARED / "audio" / "vocadito_10.wav", 22050), 43844
    rng = np.random.default_rng(draw)
    half = len(sung) * 3 // 5
    said = spoken(22050, 40, draw)
    windows = [sung[k : k + length] for k in rng.integers(0, half - length, 32)]
    windows += [said[k : k + length] for k in rng.integers(0, len(said) - length, 16)]
    judged = [sung[k : k + length] for k in range(half, len(sung) - length, 11025)]
    return {info.name: np.stack(windows)[:, None, :, None]}, {info.name: np.stack(judged)[:, None, :, None]}


SOURCES: dict[str, Callable[[str, int], tuple[Arrays, Arrays]]] = {
    "lenet-300-100": digits,
    "lenet-5": digits,
    "mnist-cntk": digits,
    "kws-ds-cnn": keywords,
    "squeezenet-1.1-fp16": lambda n, d: pictures(n, d, size=(224, 224), of=bgr, calibrate=256),
    "mobilenet-v1-0.25-128": lambda n, d: pictures(n, d, size=(128, 128), of=lambda c: c),
    "ultraface-slim-320": lambda n, d: pictures(n, d, size=(240, 320), of=centred, judge=100, calibrate=192),
    "espcn": lambda n, d: pictures(n, d, size=(4, 4), of=unit, judge=600),
    "silero-vad-16k": voice,
    "dtln-1": denoiser,
    "basic-pitch": music,
}


def samples(name: str, draw: int) -> tuple[Arrays, Arrays]:
    """Arrays to calibrate on, without labels, and to judge on, for a model by its file's stem.

    Raises:
        KeyError: no samples are known for the model.
    """
    calibrate, judge = SOURCES[name](name, draw)
    single = {i.name: len(i.shape) for i in session(name).get_inputs() if i.shape and i.shape[0] == 1}
    for arrays in (calibrate, judge):
        for key, value in list(arrays.items()):
            if value.ndim == single.get(key):
                arrays[key] = value[:, None]  # a stack of whole inputs
    return calibrate, judge
