"""Every public name has an entry on a page of the reference."""

import importlib
import pkgutil
import sys
from types import ModuleType

import pytest
from pages import DOCS

import lstm_jax

pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install lstm-jax[docs]")


@pytest.fixture(scope="module")
def api() -> ModuleType:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        return importlib.import_module("api")
    finally:
        sys.path.remove(str(DOCS / "_ext"))


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


def test_front_page_lists_every_name(api: ModuleType) -> None:
    text = api.page("lstm_jax")
    assert all(f"`{name} <" in text for name in lstm_jax._MODULES)
