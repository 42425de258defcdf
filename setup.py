"""setup: what pyproject.toml cannot say: how the native module and the wheel's tag go together.

Theory. A wheel with the native module is for every CPython from 3.11 on (abi3), on one kind of machine. Where
the module could not be built, the wheel is for all machines, as its name says: nobody takes it for the other.

Not here: everything else (pyproject.toml), the module (rust/).
"""

import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools_rust import build_rust

OLDEST = "cp311"
LEFT_OUT = """
bus1 is installed without its native module, as no Rust compiler could build it. Everything works, and takes
more time; "bus1 doctor" tells how to have the module.
"""


class BuildRust(build_rust):
    """Remembers whether the module was built; leaves none of an earlier build behind."""

    has_built = has_told = False

    def install_extension(self, *arguments):
        super().install_extension(*arguments)
        self.has_built = True

    def run(self):
        super().run()
        if not self.has_built:
            if not self.has_told:
                print(LEFT_OUT)
            BuildRust.has_told = True
            folder = "." if self.inplace else self.get_finalized_command("build_ext").build_lib
            for leftover in Path(folder, "bus1").glob("_native*.so"):
                leftover.unlink()


class BdistWheel(bdist_wheel):
    """The tag says what is in the wheel."""

    def initialize_options(self):
        super().initialize_options()
        # an interpreter without a global lock has no stable ABI to build for
        if not sysconfig.get_config_var("Py_GIL_DISABLED"):
            self.py_limited_api = OLDEST

    def get_tag(self):
        self.root_is_pure = not self.get_finalized_command("build_rust").has_built
        return super().get_tag()


setup(cmdclass={"build_rust": BuildRust, "bdist_wheel": BdistWheel})
