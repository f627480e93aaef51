"""Tests that every public name, command and flag has an entry on a page of the reference."""

import importlib
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest
from pages import DOCS

import lstm_jax
from bench.schema import FIELDS, MEASUREMENTS
from experiments.study import FIGURES, RESULTS
from lstm_jax.commands import COMMANDS
from lstm_jax.config import DataConfig, SentimentModelConfig, TrainConfig
from lstm_jax.data.reviews.sources import FORMS as REVIEWS
from lstm_jax.data.text.sources import FORMS as TEXTS


def _extension(name: str) -> ModuleType:
    """Import a module of docs/_ext under a name that no other test uses, and return it."""
    spec = spec_from_file_location(f"docs_{name}", DOCS / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def api() -> ModuleType:
    return _extension("api")


def _top_level() -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(lstm_jax.__path__))


def test_every_package_has_a_page_or_is_internal(api: ModuleType) -> None:
    packages = {module.name for module in _top_level() if module.ispkg}
    assert packages == (set(api.PACKAGES) | api.INTERNAL) & packages
    assert not set(api.PACKAGES) & api.INTERNAL


def test_every_exported_name_has_an_entry(api: ModuleType) -> None:
    found = api.documented()
    for package in _top_level():
        module = importlib.import_module(f"lstm_jax.{package.name}")
        if package.name not in api.INTERNAL:
            assert {f"{module.__name__}.{name}" for name in getattr(module, "__all__", ())} <= found


def test_every_name_of_the_front_page_has_an_entry(api: ModuleType) -> None:
    assert {f"lstm_jax.{module}.{name}" for name, module in lstm_jax._MODULES.items()} <= api.documented()


def test_submodules_are_imported_when_they_are_used() -> None:
    """`import lstm_jax` does not import JAX, and `lstm_jax.data.pad_sequences` is found without an import of `lstm_jax.data`."""
    code = "import sys, lstm_jax; print('jax' in sys.modules, lstm_jax.data.pad_sequences.__name__, hasattr(lstm_jax, 'nothing'))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "pad_sequences", "False"]


def test_front_page_lists_every_name(api: ModuleType) -> None:
    text = api.page("lstm_jax")
    assert all(f"`{name} <" in text for name in lstm_jax._MODULES)


def test_every_command_with_its_flags() -> None:
    text = _extension("commands").page()
    assert all(f"\n## {name}\n" in text for name in COMMANDS)
    config = [field.name for section in (DataConfig, SentimentModelConfig, TrainConfig) for field in fields(section)]
    assert all(f"`--{name.replace('_', '-')}`" in text for name in config)


def test_messages_have_a_remedy() -> None:
    text = _extension("messages").page()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| subject"))]
    assert len(rows) > 200
    assert all(row.count(" | ") == 1 for row in rows)


def test_every_field_of_a_row() -> None:
    text = _extension("rows").page()
    assert all(f"\n| `{name}` | " in text for name in (*FIELDS, *MEASUREMENTS))


def test_the_drawing_has_every_storey() -> None:
    storeys = _extension("storeys")
    drawn = storeys.drawing()
    assert storeys.layers()[:2] == [["experiments"], ["bench"]]
    assert all(f">{name.removeprefix('lstm_jax.')}</text>" in drawn for row in storeys.layers() for name in row)


def test_every_form_of_a_source() -> None:
    text = _extension("sources").page()
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| source"))]
    assert len(rows) == len(REVIEWS) + len(TEXTS)
    assert all(form.content in text for form in (*REVIEWS, *TEXTS))
    assert all(f"`{form.example[0]}`:\n\n```text\n{form.example[1]}```" in text for form in (*REVIEWS, *TEXTS) if form.example)


def test_every_study_with_rows_has_its_verdict() -> None:
    text = _extension("studies").page()
    studies = sorted(path.name.partition(".")[0] for path in RESULTS.iterdir())
    assert re.findall(r"^## Verdict of (\w+)$", text, re.MULTILINE) == studies
    assert all((FIGURES / f"{study}.{ending}").exists() for study in studies for ending in ("png", "svg"))
    assert "runs failed" not in text
    assert "have no row yet" not in text
    assert "tiny Shakespeare: 1.4590 nats (1.4593, 1.4637, 1.4541)" in text
