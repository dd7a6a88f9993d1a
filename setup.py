"""Build of the optional kernels; everything else about the package stands in pyproject.toml.

The kernels are plain C++17 behind a C interface, without a header of Python or torch: one shared library serves every
version of either. Each kernel file is compiled once for each instruction set, and the choice between them is made when
the library is loaded, so a wheel built on one machine runs on another. Without a compiler the package installs without
the library, and `kanscan show backends` says so.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

OPS = Path("src") / "kanscan" / "ops"
FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
# -ffp-contract=fast: multiply-adds are fused across statements, which GCC does by itself and Clang does not.
# -Wno-unknown-warning-option: Clang does not know all warnings of GCC, and GCC does not mind.
FLAGS += ["-ffp-contract=fast", "-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"]
INSTRUCTION_SETS = {
    "base": [],
    "avx2": ["-mavx2", "-mfma"],
    # GCC 12 warns of its own header for this set.
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mprefer-vector-width=512", "-Wno-uninitialized"],
}
LIBRARY = (OPS / "kernels" / "native.cpp").as_posix()
KERNELS = sorted(path.as_posix() for path in OPS.glob("*/kernels/*.cpp"))
HEADERS = sorted(path.as_posix() for path in OPS.rglob("*.h"))


def instruction_sets() -> dict[str, list[str]]:
    """Name those of this architecture; a macOS build for two architectures at once takes the common one."""
    x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "darwin"
    return INSTRUCTION_SETS if x86 else {"base": []}


class BuildKernels(build_ext):
    """Compile the kernel files for every instruction set and link them to one library."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library without the tag of a Python version, since it contains no Python."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Build; what goes wrong is reported by setuptools and does not stop the installation (`optional`)."""
        from setuptools.errors import CompileError

        if self.compiler.compiler_type != "unix":
            raise CompileError("the kernels need GCC or Clang; kanscan is installed without them")
        temporary = Path(self.build_temp)
        objects = self.compiler.compile(
            [LIBRARY],
            output_dir=str(temporary),
            extra_postargs=FLAGS,
            depends=ext.depends,
        )
        for name, flags in instruction_sets().items():
            objects += self.compiler.compile(
                KERNELS,
                output_dir=str(temporary / name),
                macros=[("KANSCAN_ISA", name)],
                extra_postargs=[*FLAGS, *flags],
                depends=ext.depends,
            )
        target = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(objects, target, extra_postargs=["-pthread"], target_lang="c++")


class PlatformWheel(bdist_wheel):
    """Tag the wheel with the platform alone: the library fits every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag of the wheel."""
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[
        Extension(
            "kanscan.ops._native",
            sources=[LIBRARY, *KERNELS],
            depends=HEADERS,
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
