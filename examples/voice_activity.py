"""Voice activity detection with the weights of Silero VAD: one stream, a whole file, or
many streams in one batch.

    pip install silero-vad
    python examples/voice_activity.py speech.wav

The program reads a WAV file (mono, 16 bits, 16 or 8 kHz), prints where somebody speaks,
and compares three ways to compute the probability of speech in each frame of 32 ms:

- `Detector.__call__` computes the convolutions of all frames at once, and then runs the
  LSTM over them.
- `stream` reads one frame at a time, as a microphone gives them.
- `serve` reads many recordings in one batch. Each has one row, which another recording
  takes when it ends.

The weights are those of the installed package silero-vad (MIT licence,
https://github.com/snakers4/silero-vad).
"""

import argparse
import wave
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lstm_jax import LSTM, LSTMState, make_stepper
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.convert import load


class Memory(NamedTuple):
    """State of B streams: the last samples of the frame before (B, C), and the state of
    the LSTM.
    """

    context: jax.Array
    lstm: LSTMState


class Convolution(nnx.Module):
    """Convolution over time: (B, T, E) to (B, 1 + (T - K) // stride, units), for a
    kernel (K, E, units).
    """

    def __init__(self, kernel: Any, bias: Any = 0.0, stride: int = 1):
        self.kernel, self.bias, self.stride = (
            nnx.Param(jnp.asarray(kernel)),
            nnx.Param(jnp.asarray(bias)),
            stride,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the K shifted copies of x side by side times the kernel. For few
        steps, this is faster than XLA's convolution.
        """
        width, _, units = self.kernel.shape
        stop = x.shape[1] - width + 1
        windows = jnp.concatenate(
            [x[:, k : stop + k : self.stride] for k in range(width)], axis=-1
        )
        return windows @ self.kernel.reshape(-1, units) + self.bias[...]


class Detector(nnx.Module):
    """Silero VAD: magnitudes of a short-time Fourier transform, four convolutions, an
    LSTM and a dense layer with one output.

    A frame has F samples (512 at 16 kHz). The network reads it behind the last C = F /
    8 samples of the frame before.
    """

    def __init__(self, weights: dict[str, np.ndarray]):
        basis = weights["stft.forward_basis_buffer"].T  # (window, 1, 2 * bins)
        self.frame, self.context, self.hop = (
            2 * len(basis),
            len(basis) // 4,
            len(basis) // 2,
        )
        self.stft = Convolution(basis.reshape(2, self.hop, -1))  # a window is two hops
        names = [f"encoder.{n}.reparam_conv" for n in range(4)]
        layers = zip(names, (1, 2, 2, 1), strict=True)
        self.encoder = nnx.List(
            Convolution(weights[f"{at}.weight"].T, weights[f"{at}.bias"], stride)
            for at, stride in layers
        )
        self.layer = LSTM(128, 128, return_sequences=True, rngs=nnx.Rngs(0))
        load(self.layer, weights, "decoder.rnn.")
        self.decoder = Convolution(
            weights["decoder.decoder.2.weight"].T, weights["decoder.decoder.2.bias"]
        )

    def initial_state(self, batch: int) -> Memory:
        """Return the state of `batch` streams that begin."""
        return Memory(jnp.zeros((batch, self.context)), self.layer.initial_state(batch))

    def encode(self, samples: jax.Array) -> jax.Array:
        """Return the inputs of the LSTM (B, 128) for B frames with their contexts (B, C
        + F).
        """
        samples = jnp.pad(samples, ((0, 0), (0, self.context)), mode="reflect")
        real, imaginary = jnp.split(
            self.stft(samples.reshape(len(samples), -1, self.hop)), 2, axis=-1
        )
        x = jnp.sqrt(real**2 + imaginary**2)
        for convolution in self.encoder:
            x = jax.nn.relu(convolution(jnp.pad(x, ((0, 0), (1, 1), (0, 0)))))
        return x[:, 0]

    def decode(self, h: jax.Array) -> jax.Array:
        """Return the probabilities of speech (B, T) for the outputs of the LSTM (B, T,
        128).
        """
        return jax.nn.sigmoid(self.decoder(jax.nn.relu(h)))[..., 0]

    def __call__(self, audio: jax.Array) -> jax.Array:
        """Return the probabilities (T,) of the T frames of a recording (T, F)."""
        before = jnp.pad(audio[:-1, -self.context :], ((1, 0), (0, 0)))
        return self.decode(
            self.layer(self.encode(jnp.concatenate([before, audio], axis=1))[None])
        )[0]

    def step(
        self, samples: jax.Array, state: Memory, reset: jax.Array | None = None
    ) -> tuple[jax.Array, Memory]:
        """Read one frame of B streams (B, F); return the probabilities (B,) and the new
        state. `reset` (B,) marks streams that begin.
        """
        before = (
            state.context
            if reset is None
            else jnp.where(reset[:, None], 0.0, state.context)
        )
        h, lstm = self.layer.step(
            self.encode(jnp.concatenate([before, samples], axis=1)),
            state.lstm,
            reset=reset,
        )
        return self.decode(h[:, None])[:, 0], Memory(samples[:, -self.context :], lstm)


def data_folder() -> Path:
    """Return the folder of the models in the installed package silero-vad."""
    found = find_spec("silero_vad")
    require(
        found and found.origin,
        "package silero-vad",
        "not installed",
        "pip install silero-vad",
    )
    return Path(str(found and found.origin)).parent / "data"


def read_detector(rate: int) -> Detector:
    """Return the detector for 16,000 or 8,000 samples per second, with the weights of
    the package's PyTorch model.
    """
    path = data_folder() / "silero_vad.jit"
    with parsing("package torch, which silero-vad needs", "pip install silero-vad"):
        import torch
    prefix = {16_000: "_model.", 8_000: "_model_8k."}[rate]
    state = torch.jit.load(path).state_dict()
    return Detector(
        {
            name.removeprefix(prefix): array.numpy()
            for name, array in state.items()
            if name.startswith(prefix)
        }
    )


def read_audio(path: str) -> tuple[np.ndarray, int]:
    """Return the samples (N,), from -1 to 1, and the samples per second of a WAV file."""
    with parsing(f"file {path}", "give a WAV file"), wave.open(path) as file:
        kind, rate = (file.getnchannels(), file.getsampwidth()), file.getframerate()
        samples = np.frombuffer(
            file.readframes(file.getnframes()), "<i2" if kind == (1, 2) else "u1"
        )
    readable, found = (
        kind == (1, 2) and rate in (8_000, 16_000),
        f"{kind[0]} channels, {8 * kind[1]} bits, {rate} Hz",
    )
    require(readable, f"file {path}", found, "give mono, 16 bits, 16000 or 8000 Hz")
    return samples / np.float32(32768), rate


def split(audio: np.ndarray, size: int) -> np.ndarray:
    """Return a recording (N,) as frames (T, size), with zeros after its end."""
    return np.pad(audio, (0, -len(audio) % size)).astype(np.float32).reshape(-1, size)


def stream(step, state: Memory, frames: np.ndarray) -> np.ndarray:
    """Return the probabilities (T,) of a recording (T, F) that is read frame by frame."""
    found = []
    for frame in frames:
        probability, state = step(frame[None], state)
        found.append(probability.item())  # here a program would act on it
    return np.array(found)


def serve(step, state: Memory, recordings: list[np.ndarray]) -> list[np.ndarray]:
    """Return the probabilities of many recordings (T, F), which join the batch when a
    row is free, and leave it when they end.
    """
    # the recording that each row reads
    found, here = [list[float]() for _ in recordings], dict[int, int]()
    waiting = [n for n, frames in enumerate(recordings) if len(frames)][::-1]
    while waiting or here:
        frames = np.zeros((len(state.context), 8 * state.context.shape[1]), np.float32)
        begins = np.zeros(len(frames), bool)
        for row in range(len(frames)):
            if row not in here and waiting:
                here[row], begins[row] = waiting.pop(), True
            if row in here:
                frames[row] = recordings[here[row]][len(found[here[row]])]
        probabilities, state = step(frames, state, begins)
        probabilities = probabilities.tolist()
        for row, n in list(here.items()):
            found[n].append(probabilities[row])
            if len(found[n]) == len(recordings[n]):
                del here[row]
    return [np.array(own) for own in found]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print when somebody speaks in a recording, and how far the probabilities of the
    three ways are apart.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="least probability of speech"
    )
    given = parser.parse_args(arguments)
    try:
        audio, rate = read_audio(given.file)
        detector = read_detector(rate)
    except InputError as error:
        parser.error(str(error))
    frames = split(audio, detector.frame)
    whole = nnx.jit(Detector.__call__)
    found, step = (
        np.asarray(whole(detector, jnp.asarray(frames))),
        make_stepper(detector),
    )
    edges = (
        np.flatnonzero(np.diff(found >= given.threshold, prepend=False, append=False))
        * detector.frame
        / rate
    )
    for begin, end in edges.reshape(-1, 2):
        print(f"speech from {begin:7.2f} to {end:7.2f} s")
    alone = np.abs(stream(step, detector.initial_state(1), frames) - found).max(
        initial=0
    )
    # as recordings of their own, in a batch of 4
    parts = np.array_split(frames, max(1, len(frames) // 100))
    together = zip(serve(step, detector.initial_state(4), parts), parts, strict=True)
    batch = max(
        np.abs(own - whole(detector, jnp.asarray(part))).max(initial=0)
        for own, part in together
    )
    print(f"largest differences: {alone:.1e} frame by frame, {batch:.1e} in a batch")


if __name__ == "__main__":
    main()
