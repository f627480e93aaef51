"""The commands `inspect`, `export onnx` and `run accept` of `lstm-jax`, which take the run of any task."""

import json
from pathlib import Path

from lstm_jax.bounds import Count, frozen
from lstm_jax.commands.common import Command, load_run, say
from lstm_jax.files.digits import counted
from lstm_jax.files.writing import check_output


@frozen
class Inspect(Command):
    """Write an HTML page that shows step by step what a trained network does.

    The page shows gates, states and outputs, and what the outputs depend on.
    """

    run: Path = Path("runs/sentiment")
    """Folder of a trained run."""
    text: tuple[str, ...] = ()
    """Reviews or texts to show. If neither --text nor --file is given, examples of three kinds are chosen from the run's held-out data,
    for example those where the network is surest and those where it is most wrong."""
    file: Path | None = None
    """File to show. For a sentiment run, it is a table or contains one review per line. For a text-generation run, it contains a text. For
    a forecasting run, it contains a series, whose last entries are shown."""
    examples: Count = 2
    """Number of examples to choose of each of the three kinds that the help of --text describes. Unused if --text or --file is given."""
    chars: Count = 200
    """Largest number of characters of each example. Only for runs of text generation."""
    text_column: str = ""
    """Column or key that contains the text in a .csv, .json or .jsonl file. If empty, the --text-column of the training is used. If that is
    empty, too, the column is guessed."""
    unknown: str = ""
    """Character that replaces characters outside the vocabulary of a run of text generation. If empty, such characters raise an error."""
    epochs: Count = 6
    """Largest number of epochs to show, if the run was trained with --keep-epochs."""
    out: Path = Path("inspect.html")
    """HTML page to write. A browser can show the page without a network connection."""
    force: bool = False
    """Replace the file at --out, even if another program wrote it."""

    def __call__(self, console):
        from lstm_jax.config import read_task

        check_output(self.out, filter(None, (self.run, self.file)), self.force)
        task = read_task(self.run / "config.json")
        from lstm_jax.inspection.window import write_page
        from lstm_jax.tasks.inspecting import Request, make_window

        trained = load_run(task, self.run)
        request = Request(self.text, self.file, self.examples, self.chars, self.epochs, self.text_column, self.unknown)
        with console.status("tracing the network"):
            window = make_window(trained, request)
        write_page(window, self.out, self.force)
        advice = "; open it in a browser" if console.is_terminal else ""
        say(console, f"{self.out}: {counted(len(window.examples), 'example')}, {self.out.stat().st_size:,} bytes{advice}")


@frozen
class ExportOnnx(Command):
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

    def __call__(self, console):
        from lstm_jax.config import read_task
        from lstm_jax.convert.onnx import import_onnx

        check_output(self.file, (self.run,), self.force)
        import_onnx()
        task = read_task(self.run / "config.json")
        from lstm_jax.tasks import onnx_models

        row = onnx_models.write_onnx(load_run(task, self.run), self.file, self.force)
        if self.json:
            print(json.dumps(row))
            return
        for kind in ("input", "output"):
            for name, described in row[f"{kind}s"].items():
                say(console, f"{kind} {name}: {described}")
        say(console, f"{row['bytes']:,} bytes, ONNX opset {row['opset']}, in {self.file}")


@frozen
class AcceptRun(Command):
    """Accept the changed files of a run, so that the run can be loaded again.

    Without this command, a run whose files have changed cannot be loaded.
    """

    run: Path
    """Folder of a run."""

    def __call__(self, console):
        from lstm_jax.training.run_folder import RunFolder

        found = RunFolder(self.run).accept()
        for name, kind in found.items():
            say(console, f"{name}: {kind}")
        say(console, f"{self.run}: " + (f"{len(found)} accepted" if found else "as the run wrote it"))
