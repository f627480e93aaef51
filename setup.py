"""Build of the compiled code as a part of the installation. All other settings of the
installation are in pyproject.toml.

The wheel contains the library for the level of this machine's processor, or for each
level with the environment variable LSTM_JAX_LEVELS=all; see
lstm_jax/native/packaged.py. The compilation takes less than a minute on two cores. The
libraries do not depend on the versions of Python and JAX. They are compiled by the
first of these compilers that exists: the one in the environment variable CXX, c++, g++,
clang++, and the build requirement ziglang. If the compilation fails, lstm_jax is
installed without the libraries.

To compile for another machine, set the environment variable LSTM_JAX_MACHINE to its
architecture, such as "aarch64", set CXX to a cross compiler, and give the option
--plat-name to the command bdist_wheel.
"""

import os
import shutil
import sys
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
PACKAGE = "lstm_jax/native/lib"
WITHOUT = (
    "lstm_jax is installed without compiled code, and its recurrences run in "
    "plain JAX, which is slower; see `lstm-jax backends`"
)


class BuildLibraries(build_ext):
    """Command that compiles the libraries into the package, or into the source tree for
    an editable installation.
    """

    def run(self) -> None:
        """Compile the libraries. If this fails, remove old libraries and print the
        reason in one line.
        """
        sys.path.insert(0, str(HERE))
        try:
            from lstm_jax.native.packaged import build_packaged

            print(
                "compiling the C++ code of lstm_jax, which takes less than a "
                "minute on two cores",
                file=sys.stderr,
            )
            began = time.monotonic()
            built = build_packaged(
                self._folder(), os.environ.get("LSTM_JAX_MACHINE", "")
            )
            names = (
                ", ".join(path.name for path in built)
                or "no library for this processor"
            )
            print(f"{names}: {time.monotonic() - began:.0f} seconds", file=sys.stderr)
        except Exception as error:
            print(f"{' '.join(str(error).split())}: {WITHOUT}", file=sys.stderr)
            built = []
            for stale in self._folder().glob("*.so"):
                stale.unlink(missing_ok=True)
        finally:
            sys.path.remove(str(HERE))
        self.built = [str(path) for path in built]

    def _folder(self) -> Path:
        return (
            HERE if self._in_source() else Path(self.build_lib).absolute()
        ) / PACKAGE

    def _in_source(self) -> bool:
        return bool(self.inplace or getattr(self, "editable_mode", False))

    def get_outputs(self) -> list[str]:
        """Return the paths of the compiled libraries, or [] if they are compiled into
        the source tree.
        """
        return [] if self._in_source() else getattr(self, "built", [])

    def get_output_mapping(self) -> dict[str, str]:
        """Return an empty dict, since an editable installation uses the source tree
        itself.
        """
        return {}


class Wheel(bdist_wheel):
    """Command that makes one wheel, which can be installed in every version of Python
    3.
    """

    def get_tag(self) -> tuple[str, str, str]:
        """Return the three tags of the wheel: the version of Python, the binary
        interface and the platform.

        If no library was compiled, the tag of the platform is "any".
        """
        built = getattr(self.get_finalized_command("build_ext"), "built", [])
        return "py3", "none", super().get_tag()[2] if built else "any"


def has_compiler() -> bool:
    """Return whether this machine has a C++ compiler: the one in the environment
    variable CXX, c++, g++ or clang++.
    """
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return any(name.strip() and shutil.which(name.split()[0]) for name in names)


setup(
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel},
    ext_modules=[
        Extension(
            "lstm_jax.native.lib",
            sources=[
                str(path.relative_to(HERE))
                for path in HERE.glob("lstm_jax/native/*.cc")
            ],
        )
    ],
    setup_requires=[] if has_compiler() else ["ziglang>=0.13"],
)
