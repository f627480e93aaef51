"""`nox`: the tests on Python 3.11 and on the newest Python present; `nox -s lint`: what CI checks beside them.

`nox -s docs` builds the site, `-s sanitize` and `-s fuzz` run the sanitizers and the fuzzers.
"""

import shutil

import nox

nox.options.default_venv_backend = "venv"
NEWEST = next((version for version in ("3.15", "3.14", "3.13", "3.12") if shutil.which(f"python{version}")), "3.11")


@nox.session(python=sorted({"3.11", NEWEST}))
def tests(session: nox.Session) -> None:
    """Run the whole suite. PyTorch's wheels are large: `nox -s tests -- torch` installs them too, else its tests skip."""
    extras = "tests,torch" if "torch" in session.posargs else "tests"
    session.install("-e", f".[{extras}]")
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal")


@nox.session(python="3.11")
def sanitize(session: nox.Session) -> None:
    """Run all tests of the compiled backend under g++'s address, undefined behaviour and thread sanitizers."""
    session.install("-e", ".[tests]")
    session.run(".ci/sanitize", *session.posargs, external=True, env={"PYTHON": "python"})


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Check lint, types and import rules."""
    session.install("-e", ".[tests,torch,lint]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("pyright")
    session.run("lint-imports", ".importlinter")


@nox.session(python="3.11")
def fuzz(session: nox.Session) -> None:
    """Run the fuzzers at length: 3,000 command lines, 1,000 files, 500 flips, 200 kills; `nox -s fuzz -- flags --seed 7` for a part."""
    session.install("-e", ".[tests]")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build/html. Its code cells run if they, or the library, have changed since the last build."""
    session.install("-e", ".[docs]")
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")
