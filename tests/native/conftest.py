"""A library that is compiled in a moment, for tests of how libraries are stored, chosen
and loaded.
"""

import shutil
import subprocess

import pytest


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a library that has no function of ours except
    `lstm_jax_has_products`.
    """
    command = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not command:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.cc").write_text(
        'extern "C" int lstm_jax_has_products(long) { return 1; }\n'
    )
    subprocess.run(
        [
            command,
            "-shared",
            "-fPIC",
            str(folder / "small.cc"),
            "-o",
            str(folder / "small.so"),
        ],
        check=True,
    )
    return (folder / "small.so").read_bytes()
