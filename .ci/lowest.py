"""The lowest declared versions of what is tested with them, as constraints for pip: ray>=2.58,<2.61 gives ray==2.58.

For an environment in which the package is installed.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement

for requirement in map(Requirement, requires("distgan") or ()):
    if requirement.name in ("ray", "torch", "torchvision"):
        (lowest,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
        print(f"{requirement.name}=={lowest}")
