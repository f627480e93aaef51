"""Compares voice_activity.py with the models of the package silero-vad: probabilities,
and milliseconds per frame of 32 ms of each stream.

    pip install silero-vad onnxruntime
    taskset -c 0 python examples/voice_activity_peers.py speech.wav

The models are the stateful ONNX model, the ONNX model for whole files, and the PyTorch
model. A time is the least of 200. The difference is the largest one from the
probabilities of the stateful ONNX model.
"""

import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import torch
from flax import nnx
from voice_activity import Detector, data_folder, read_audio, read_detector, split

from lstm_jax import make_stepper

Run = Callable[[np.ndarray], np.ndarray]


def contexts(frames: np.ndarray) -> np.ndarray:
    """Return frames (T, ..., F) behind the last samples of the frames before them."""
    before = frames[..., -frames.shape[-1] // 8 :]
    return np.concatenate(
        [np.concatenate([np.zeros_like(before[:1]), before[:-1]]), frames], axis=-1
    )


def session(name: str) -> onnxruntime.InferenceSession:
    """Open an ONNX model for one thread, as the package does."""
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data_folder() / name, options)


def make_stateful(rate: int) -> Run:
    """Return a function of frames (T, B, F) that calls the stateful ONNX model for each
    frame of B streams.
    """
    model = session("silero_vad.onnx")

    def run(frames):
        state, found = np.zeros((2, frames.shape[1], 128), np.float32), []
        for samples in contexts(frames):
            probability, state = model.run(
                None, {"input": samples, "state": state, "sr": np.array(rate)}
            )
            found.append(np.asarray(probability)[:, 0])
        return np.array(found)

    return run


def make_sequence() -> Run:
    """Return a function of frames (T, F) at 16 kHz that calls the ONNX model for whole
    files.
    """
    model, zeros = (
        session("silero_vad_16k_sequence.onnx"),
        np.zeros((1, 1, 128), np.float32),
    )
    return lambda frames: np.asarray(
        model.run(None, {"input": contexts(frames), "h": zeros, "c": zeros})[0]
    ).ravel()


def make_torch(rate: int) -> Run:
    """Return a function of frames (T, B, F) that calls the PyTorch model for each frame
    of B streams.
    """
    torch.set_num_threads(1)
    model = torch.jit.load(data_folder() / "silero_vad.jit")

    def run(frames):
        model.reset_states()
        with torch.inference_mode():
            return np.array(
                [
                    model(torch.from_numpy(samples), rate)[:, 0].numpy()
                    for samples in frames
                ]
            )

    return run


def make_steps(detector: Detector) -> Run:
    """Return a function of frames (T, B, F) that calls a compiled step of the detector
    for each frame of B streams.
    """
    step = make_stepper(detector)

    def run(frames):
        state, found = detector.initial_state(frames.shape[1]), []
        for samples in frames:
            probability, state = step(samples, state)
            found.append(np.asarray(probability))
        return np.array(found)

    return run


def make_whole(detector: Detector) -> Run:
    """Return a function of frames (T, F) that computes all their probabilities in one
    call.
    """
    whole, (graph, weights) = (
        jax.jit(lambda weights, x: nnx.merge(graph, weights)(x)),
        nnx.split(detector),
    )
    return lambda frames: np.asarray(whole(weights, jnp.asarray(frames)))


def least_times(
    runs: dict[str, Run], frames: np.ndarray, rounds: int = 200
) -> dict[str, float]:
    """Return the least time of each function over some rounds, in which they take
    turns, in milliseconds per frame.
    """
    found = dict.fromkeys(runs, np.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run(frames)
            found[name] = min(
                found[name], 1000 * (time.perf_counter() - began) / len(frames)
            )
    return found


def compare(path: str) -> None:
    """Print a table of the times and differences on a recording."""
    audio, rate = read_audio(path)
    detector = read_detector(rate)
    frames = split(audio, detector.frame)
    many = np.stack([np.roll(frames, 5 * n, axis=0)[:10] for n in range(64)], axis=1)
    stateful = make_stateful(rate)
    by_frame = {
        "ONNX Runtime, stateful": stateful,
        "PyTorch": make_torch(rate),
        "lstm_jax": make_steps(detector),
    }
    whole = {"lstm_jax": make_whole(detector)} | (
        {"ONNX Runtime, whole file": make_sequence()} if rate == 16_000 else {}
    )
    for title, inputs, runs in (
        ("one stream", frames[:40, None], by_frame),
        ("whole file", frames, whole),
        ("64 streams", many, by_frame),
    ):
        wanted = stateful(inputs if inputs.ndim == 3 else inputs[:, None]).reshape(
            inputs.shape[:-1]
        )
        differences = {
            name: np.abs(run(inputs) - wanted).max() for name, run in runs.items()
        }
        for name, milliseconds in least_times(runs, inputs).items():
            print(f"{title} {name:>25} {milliseconds:8.4f} ms {differences[name]:.1e}")


if __name__ == "__main__":
    compare(sys.argv[1])
