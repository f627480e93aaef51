"""Export of trained runs as ONNX models, which hold the vocabulary of the run in their
metadata.
"""

from pathlib import Path
from typing import Any

from lstm_jax import convert
from lstm_jax.base.errors import require
from lstm_jax.base.reading import parsing
from lstm_jax.base.types import Values
from lstm_jax.base.writing import MARK, write_atomically
from lstm_jax.lab import task as base
from lstm_jax.lab.config import RecurrentConfig
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.sentiment import task as sentiment


def to_onnx(trained: base.Trained) -> Any:
    """Convert the model of a trained run to an `onnx.ModelProto`.

    For a sentiment run, the ONNX model has the input "ids" and the output
    "probability"; see `convert.sentiment_to_onnx`. For a text-generation run, the
    inputs are "ids" and the states, and the outputs are "logits" and the new states;
    see `convert.generation_to_onnx`. The metadata of the ONNX model are the name of the
    task, the name of the cell, the vocabulary as JSON, the settings with which the run
    encodes a text, and the version of the ONNX operators.

    Raises:
        InputError: if the run is of another task, if ONNX cannot express its model, or
            if the package onnx is not installed.
    """
    task, data, model = trained.config.task, trained.config.data, trained.config.model
    check_exportable(task, model)
    if isinstance(trained, sentiment.Trained):
        convert_model, settings = (
            convert.sentiment_to_onnx,
            {"padding": data.padding, "truncating": data.truncating},
        )
        settings |= {"maxlen": data.packed or data.maxlen}
        # a packed review has no padding
        skip_padding = model.mask_zero or data.packed > 0
        options = {
            "merge": model.merge,
            "pooling": model.pooling,
            "skip_padding": skip_padding,
        }
    else:
        convert_model, options = convert.generation_to_onnx, {}
        settings = {
            "mode": generation.reading_mode(trained.config),
            "length": data.length,
            "clean": data.clean,
        }
    metadata = (
        {"task": task}
        | {name: str(value) for name, value in settings.items()}
        | {"vocabulary": trained.own.to_json().decode()}
    )
    return convert_model(
        trained.params,
        cell=model.cell,
        description=f"{task} model, {MARK}",
        metadata=metadata,
        **options,
    )


def check_exportable(task: str, model: RecurrentConfig) -> None:
    """Raise an `InputError` if a run of this task cannot be exported, or if ONNX cannot
    express what the model computes.
    """
    require(
        task in ("sentiment", "generation"),
        "task",
        task,
        "name a run of sentiment or generation",
    )
    for name in ("zoneout", "zoneout_cell"):
        rate = getattr(model, name)
        require(
            rate == 0,
            name,
            rate,
            "ONNX's recurrent operators have no zoneout: train without it to export",
        )
    require(
        model.dtype == "float32",
        "dtype",
        model.dtype,
        "ONNX's recurrent operators multiply in float32: train with dtype float32",
    )


def write_onnx(trained: base.Trained, path: Path, force: bool = True) -> Values:
    """Write the model of a trained run to an ONNX file.

    An existing file is kept until the new file is complete. Only if `force` is true, a
    file without the mark of lstm-jax is replaced.

    Returns:
        A dict that describes the file: "file" (the path), "task" (the name of the
        task), "bytes" (the size), "opset" (the version of the ONNX operators), "inputs"
        and "outputs". The last two are dicts from the name of each input or output of
        the model to its dtype and shape as text, such as "int64 (batch, time)".

    Raises:
        InputError: if `to_onnx` raises an error, or if the file cannot be written or
            may not be replaced.
    """
    model = to_onnx(trained)
    # protobuf refuses files of 2 GiB and more
    with parsing("ONNX model", "give a smaller model"):
        content = model.SerializeToString(deterministic=True)
    write_atomically(path, content, force)
    return {
        "file": str(path),
        "task": trained.config.task,
        "bytes": len(content),
        "opset": model.opset_import[0].version,
        "inputs": {
            value.name: _described(value.type.tensor_type)
            for value in model.graph.input
        },
        "outputs": {
            value.name: _described(value.type.tensor_type)
            for value in model.graph.output
        },
    }


def _described(value) -> str:
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.elem_type).name
    axes = [axis.dim_param or str(axis.dim_value) for axis in value.shape.dim]
    return f"{dtype} ({', '.join(axes)}{',' * (len(axes) == 1)})"
