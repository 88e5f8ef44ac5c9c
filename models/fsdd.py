"""Spoken digits (the Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset) as spectral features.

The archive holds ``recordings/DIGIT_SPEAKER_TAKE.wav``, 8 kHz mono. A recording becomes 32 frames, 32 ms apart, of 40 logarithms of mel
bands; shorter ones are padded with silence, longer ones squeezed by taking fewer frames. Each is brought to mean 0 and deviation 1.
"""

from __future__ import annotations

import io
import re
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RATE = 8000  # samples a second
WINDOW, HOP, BANDS, FRAMES = 400, 256, 40, 32
TESTED_TAKES, HELD_TAKES = range(10), range(10, 15)  # of 50

Floats = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]


def load(archive: Path) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Features float32 [n, FRAMES, BANDS], digits int64 [n], speakers [n], takes int64 [n]; in the order of names."""
    features, digits, speakers, takes = [], [], [], []
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            match = re.search(r"(\d)_(\w+)_(\d+)\.wav$", name)
            if not match:
                continue
            features.append(spectrum(samples(files.read(name))))
            digits.append(int(match[1]))
            speakers.append(match[2])
            takes.append(int(match[3]))
    return np.stack(features), np.array(digits, np.int64), np.array(speakers), np.array(takes, np.int64)


def samples(data: bytes) -> Floats:
    """A wav file of 16 bits, as floats in -1..1."""
    with wave.open(io.BytesIO(data)) as sound:
        assert sound.getframerate() == RATE and sound.getsampwidth() == 2 and sound.getnchannels() == 1
        return np.frombuffer(sound.readframes(sound.getnframes()), np.int16).astype(np.float32) / 32768


def spectrum(sound: Floats) -> Floats:
    """Logarithms of mel bands, float32 [FRAMES, BANDS]."""
    sound = np.pad(sound, (0, max(0, WINDOW - len(sound))))
    starts = np.arange(0, len(sound) - WINDOW + 1, HOP)
    if len(starts) > FRAMES:
        starts = np.linspace(0, len(sound) - WINDOW, FRAMES).astype(np.int64)
    frames = np.stack([sound[s : s + WINDOW] for s in starts]) * np.hanning(WINDOW)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    bands = np.log(power @ mel_bank().T + 1e-6)
    quiet = np.full((FRAMES - len(bands), BANDS), bands.min())
    bands = np.concatenate([bands, quiet])
    return ((bands - bands.mean()) / max(float(bands.std()), 1e-3)).astype(np.float32)


def mel_bank() -> npt.NDArray[np.float64]:
    """Triangles evenly spaced on the mel scale, [BANDS, WINDOW // 2 + 1]."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    lines = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rise = (lines[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - lines[None]) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall))


def split(archive: Path, by: str) -> tuple[Arrays, Arrays, Arrays]:
    """Arrays ``x`` and ``label`` to train on, to choose on, and to test on.

    Args:
        by: ``take`` (the first ten of each speaker's fifty are tested), or a speaker's name (all of that voice is tested).
    """
    x, digits, speakers, takes = load(archive)
    if by != "take" and by not in speakers:
        raise SystemExit(f"no speaker {by!r}; there are {', '.join(sorted(set(speakers)))}")
    tested = np.isin(takes, TESTED_TAKES) if by == "take" else speakers == by
    held = ~tested & np.isin(takes, HELD_TAKES)
    parts = (~tested & ~held, held, tested)
    train, validation, test = ({"x": x[part], "label": digits[part]} for part in parts)
    return train, validation, test


def varied(data: Arrays, copies: int, seed: int) -> Arrays:
    """The recordings and ``copies`` more of each, moved in time, stretched, and moved along the bands as other voices would."""
    rng = np.random.default_rng(seed)
    x = np.asarray(data["x"], np.float32)
    found = [x]
    for _ in range(copies):
        time = np.arange(FRAMES)[None] / rng.uniform(0.8, 1.25, (len(x), 1)) - rng.integers(0, 4, (len(x), 1))
        band = np.arange(BANDS)[None] * rng.uniform(0.88, 1.14, (len(x), 1)) + rng.uniform(-1, 1, (len(x), 1))
        rows = np.clip(np.rint(time), 0, FRAMES - 1).astype(np.int64)
        low = np.clip(np.floor(band), 0, BANDS - 2).astype(np.int64)
        part = np.clip(band - low, 0, 1)[:, None].astype(np.float32)
        moved = np.take_along_axis(x, rows[:, :, None], 1)
        first, second = (np.take_along_axis(moved, (low + k)[:, None], 2) for k in (0, 1))
        found.append((1 - part) * first + part * second)
    return {"x": np.concatenate(found), "label": np.tile(data["label"], copies + 1)}
