"""Tests that every public name, command and flag has an entry on a page of the
reference.
"""

import pkgutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest
from pages import DOCS

import lstm_jax


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


def _packages() -> list[pkgutil.ModuleInfo]:
    """Return the packages of the core and of the laboratory."""
    import lstm_jax.lab

    found = [*lstm_jax.__path__, *lstm_jax.lab.__path__]
    return [module for module in pkgutil.iter_modules(found) if module.ispkg]


def test_every_package_has_a_page_or_is_internal(api: ModuleType) -> None:
    packages = {module.name for module in _packages()} - {"lab"}
    assert packages == (set(api.PACKAGES) | api.INTERNAL) & packages
    assert not set(api.PACKAGES) & api.INTERNAL


def test_every_name_of_the_front_page_has_an_entry(api: ModuleType) -> None:
    assert {
        f"lstm_jax.{module}.{name}" for name, module in lstm_jax._MODULES.items()
    } <= api.documented()


def test_submodules_are_imported_when_they_are_used() -> None:
    """`import lstm_jax` does not import JAX, and a name of a submodule is found
    without an import of the submodule.
    """
    code = (
        "import sys, lstm_jax; print('jax' in sys.modules, "
        "lstm_jax.convert.load.__name__, hasattr(lstm_jax, 'nothing'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["False", "load", "False"]
