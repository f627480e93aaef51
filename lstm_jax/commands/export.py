"""The command `lstm-jax export onnx`, which writes the model of a run to a file that other programs can run."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lstm_jax.commands.common import load_run, say, start
from lstm_jax.files.writing import check_output


@dataclass(frozen=True)
class ExportOnnx:
    """Write the model of a sentiment or text-generation run to an ONNX file.

    The vocabulary of the run is in the metadata of the file.
    """

    run: Path
    """Folder of a trained run."""
    file: Path
    """ONNX file to write."""
    force: bool = False
    """Replace the file at --file, even if another program wrote it."""
    json: bool = False
    """Print a description of the file as JSON."""

    def __call__(self, console: Console) -> None:
        from lstm_jax.config import read_task
        from lstm_jax.convert.onnx import import_onnx

        check_output(self.file, (self.run,), self.force)
        import_onnx()
        task = read_task(self.run / "config.json")
        start()
        from lstm_jax.tasks import onnx_models

        row = onnx_models.write_onnx(load_run(task, self.run), self.file, self.force)
        if self.json:
            print(json.dumps(row))
            return
        for kind in ("input", "output"):
            for name, described in row[f"{kind}s"].items():
                say(console, f"{kind} {name}: {described}")
        say(console, f"{row['bytes']:,} bytes, ONNX opset {row['opset']}, in {self.file}")
