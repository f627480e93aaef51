"""Sessions of the program nox, which run tests and checks in new virtual environments.
`nox -s NAME` runs one session.

The sessions are tests, lint, docs (builds the documentation site), sanitize and fuzz.
"""

import shutil

import nox

nox.options.default_venv_backend = "venv"
NEWEST = next(
    (
        version
        for version in ("3.15", "3.14", "3.13", "3.12")
        if shutil.which(f"python{version}")
    ),
    "3.11",
)


@nox.session(python=sorted({"3.11", NEWEST}))
def tests(session: nox.Session) -> None:
    """Run all tests on Python 3.11 and on the newest installed Python. `nox -s tests --
    torch` also runs the tests that need PyTorch.
    """
    extras = "tests,torch" if "torch" in session.posargs else "tests"
    session.install("-e", f".[{extras}]")
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "--all")


@nox.session(python="3.11")
def sanitize(session: nox.Session) -> None:
    """Run the tests of the compiled code with three sanitizers of g++, for memory
    errors, undefined behaviour and data races.
    """
    session.install("-e", ".[tests]")
    session.run(
        ".ci/sanitize", *session.posargs, external=True, env={"PYTHON": "python"}
    )


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Check the format, the lint rules, the types and the rules about imports between
    modules.
    """
    session.install("-e", ".[tests,torch,lint]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("pyright")
    session.run("lint-imports", ".importlinter")


@nox.session(python="3.11")
def fuzz(session: nox.Session) -> None:
    """Run all fuzzers, with several thousand random cases.

    The cases are random command lines, damaged files, flipped bits and killed
    processes. Arguments after `--` are passed to tests/fuzz/__main__.py. For example,
    `nox -s fuzz -- flags --seed 7` runs only the fuzzer of command lines, with the seed
    7.
    """
    session.install("-e", ".[tests]")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """Build the documentation site in docs/_build/html.

    The code cells of a page run if they or the library have changed since the last
    build.
    """
    session.install("-e", ".[docs]")
    session.run(
        "python",
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "docs",
        "docs/_build/html",
    )
