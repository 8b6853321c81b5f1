"""Optional packages: what is missing is an error that names what to install."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingDependencyError

#: Modules whose package has another name, apart from hyphens.
_PACKAGES = {"cuda": "cuda-bindings", "tensorrt_rtx": "tensorrt-rtx"}
#: A line of Requires-Dist (PEP 508): the name, and the extra that asks for it.
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*;.*\bextra == ['\"]([\w-]+)['\"]")


@contextmanager
def needs(user: str, *extras: str, instead: str = "") -> Iterator[None]:
    """Around imports: a package that is not installed is a :class:`MissingDependencyError`.

    Args:
        user: what needs the packages, such as a command.
        extras: ours that bring them; all of their packages that are missing are named at once.
        instead: what else a user may do, as the end of the sentence.

    Raises:
        MissingDependencyError: what is missing, and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(user, str(error.name), *extras, instead=instead) from None
    except ImportError as error:  # it is there and broken
        if str(error.name).startswith("seq2edge"):
            raise
        raise MissingDependencyError(
            f"{user} needs {error.name}, which cannot be imported: {error}{instead}"
        ) from None


def missing(user: str, module: str, *extras: str, instead: str = "") -> MissingDependencyError:
    """The error of :func:`needs` for one ``module`` that is not installed."""
    ours = module.split(".")[:2]
    if ours[0] == "seq2edge":
        return MissingDependencyError(
            f"{user} is not part of this installation, which is a device's: {'.'.join(ours)} is"
            " missing; use it on the machine that packed the bundle"
        )
    name = module.partition(".")[0]
    packages = {_PACKAGES.get(name, name.replace("_", "-")), *_missing_packages(extras)}
    return MissingDependencyError(
        f"{user} needs {name}: pip install {' '.join(sorted(packages))}{instead}"
    )


def _missing_packages(extras: tuple[str, ...]) -> Iterator[str]:
    """Packages of ``extras`` that are not installed, as this installation's metadata says.

    A device's wheel names none.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        requirements = distribution("seq2edge").requires or []
    except PackageNotFoundError:
        return
    for found in filter(None, map(_REQUIREMENT.match, requirements)):
        if found[2] in extras:
            try:
                distribution(found[1])
            except PackageNotFoundError:
                yield found[1]
