"""The installed version of seq2edge."""

from __future__ import annotations


def package_version() -> str:
    """The version that the installed package says, for manifests and ``--version``."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("seq2edge")
    except PackageNotFoundError:
        return "0 (not installed)"
