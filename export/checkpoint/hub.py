"""Checkpoints on the Hugging Face hub: only the files that export reads, through its own client.

The client's cache, ``HF_TOKEN``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are honoured, and where the
connection is cut the download goes on from there. All that is asked of the client is there since
huggingface_hub 0.25.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from seq2edge.runtime.errors import MissingDependencyError

from ..errors import CheckpointError
from .files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    INDEX,
    listing,
    shard_names,
    weights_files,
    weights_name,
    what_else,
)

if TYPE_CHECKING:
    from seq2edge.runtime.progress import StageProgress

_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)?")
_CONFIGS = (
    "config.json",
    "generation_config.json",
    ADAPTER_CONFIG,
    "preprocessor_config.json",
)
_CTRANSLATE2 = "model.bin"
#: Of tokenizers, in the folder itself and of a pair's two in ``encoder/`` and ``decoder/``.
_TOKENIZER = re.compile(
    r"((encoder|decoder)/)?((tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|target_vocab)\.json|merges\.txt|vocab\.txt|bpe\.codes|[\w.-]+\.(model|spm)"
    r"|((shared|source|target)_)?vocabulary\.(json|txt))"
)


def is_hub_id(name: str) -> bool:
    """Whether ``name`` may be a model's id: ``organization/name``, or one word as old ones are."""
    if _ID.fullmatch(name) is None or name.endswith((".", "-")):
        return False
    return ".." not in name and "--" not in name


def nearest_id(text: str) -> str:
    """A clause on the id that a web address or ``id@revision`` names; empty if it is neither."""
    address = re.fullmatch(
        r"(?:hf://|https?:/+[^/]+/)(?:models/)?([^/@]+/[^/@]+)(?:/.*|@.*)?", text
    )
    if address and is_hub_id(address[1]):
        return f"; give the id alone: {address[1]}"
    name, at, revision = text.rpartition("@")
    if at and is_hub_id(name):
        return f"; give the id alone: {name} --revision {revision}"
    return ""


def download(
    repository: str, revision: str | None, progress: StageProgress | None
) -> tuple[Path, str]:
    """The folder in the hub's cache with a checkpoint's files, and their commit.

    Raises:
        CheckpointError: the hub does not give them, and the cache does not have them; why, and
            what to do.
        MissingDependencyError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError:
        raise MissingDependencyError(
            f"{repository} is no folder here, and models on the hub need huggingface_hub: install"
            " it, or download the model's folder"
        ) from None
    if progress is not None:
        progress(f"asking the hub for {repository}", 0, 0)
    try:
        info = HfApi().model_info(repository, revision=revision)
    except OfflineModeIsEnabled:
        return _cached(repository, revision, "HF_HUB_OFFLINE is set")
    except HfHubHTTPError as error:
        if _status(error) < 500:
            raise _refused(error, repository, revision) from None
        return _cached_now(repository, revision, error)
    except Exception as error:  # the HTTP library has many classes, and is another in each version
        return _cached_now(repository, revision, error)
    names = [file.rfilename for file in info.siblings or ()]
    with _bars(progress is not None):
        return _fetched(repository, revision, names, progress)


def _fetched(
    repository: str, revision: str | None, names: Collection[str], progress: StageProgress | None
) -> tuple[Path, str]:
    first, *others = _needed(repository, names)
    # The branch is asked once, so that it cannot move between two files; and then it is known to
    # the cache, where it is looked up offline.
    folder = _get(repository, first, revision).parent
    commit = folder.name
    for name in others:
        if progress is not None:
            progress(f"downloading {name}", 0, 0)
        path = _get(repository, name, commit)
        if name.endswith(INDEX):
            others += [shard for shard in shard_names(path) if shard not in others]
    return folder, commit


def _needed(repository: str, names: Collection[str]) -> list[str]:
    """The files to download, configs first; of sharded weights only the index."""
    top = {name.partition("/")[0] + ("/" if "/" in name else "") for name in names}
    configs = [name for name in _CONFIGS if name in names]
    if ADAPTER_CONFIG not in names and "config.json" not in names:
        raise CheckpointError(
            f"{repository} on the hub has no config.json: it is no checkpoint of transformers"
            f"{what_else(top)}"
        )
    adapter = next((name for name in ADAPTER_WEIGHTS if name in names), None)
    try:
        weights = [_weights(top, f"{repository} on the hub")]
    except CheckpointError:
        if adapter is None:
            raise
        weights = []
    if adapter is not None:
        weights.append(adapter)
    return configs + sorted(filter(_TOKENIZER.fullmatch, names)) + weights


def _weights(names: Collection[str], where: str) -> str:
    """The file with the weights, or the index of their shards: transformers', or CTranslate2's."""
    of_ctranslate2 = any(re.fullmatch(r"(\w+_)?vocabulary\.(json|txt)", name) for name in names)
    try:
        return weights_name(names, where)
    except CheckpointError:
        if not of_ctranslate2 or _CTRANSLATE2 not in names:
            raise
        return _CTRANSLATE2


def _get(repository: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except EntryNotFoundError as error:
        if getattr(error, "response", None) is None:  # it is not in the cache, and cannot be asked
            raise _broken_off(repository, name, error) from None
        raise CheckpointError(f"{repository} on the hub has no {name}") from None
    except HfHubHTTPError as error:
        raise _refused(error, repository, revision) from None
    except Exception as error:
        raise _broken_off(repository, name, error) from None


def _broken_off(repository: str, name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the download of {name} of {repository} broke off ({_first_line(error)}); try again: files"
        " that are complete are kept"
    )


def _refused(error: Exception, repository: str, revision: str | None) -> CheckpointError:
    """What an answer of the hub means for a user."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub, status = constants.ENDPOINT, _status(error)
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"{repository} on {hub} has no revision {revision}")
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{repository} is gated ({status}): accept its terms at {hub}/{repository}, and set"
            " HF_TOKEN to a token of that account (or run `hf auth login`)"
        )
    if status == 401:
        return CheckpointError(
            f"{repository} is no folder here, and on {hub} it is private or does not exist (401):"
            " check the name, and set HF_TOKEN to a token that may read it (or run `hf auth login`)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"{repository} is neither a folder here nor a model on {hub} that you may read"
            f" ({status}): check the name"
        )
    if status == 403:
        return CheckpointError(
            f"{hub} forbids reading {repository} (403): set HF_TOKEN to a token that may read it"
        )
    return CheckpointError(f"{hub} gave no {repository} ({_first_line(error)}); try again later")


def _status(error: Exception) -> int:
    """The HTTP status of an error; 0: there was no answer."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _cached_now(repository: str, revision: str | None, error: Exception) -> tuple[Path, str]:
    """:func:`_cached` where there should have been an answer, which is said."""
    from huggingface_hub import constants

    reason = f"{constants.ENDPOINT} does not answer ({_first_line(error)})"
    folder, commit = _cached(repository, revision, reason)
    warnings.warn(f"{reason}: {repository} is taken from the cache, at {commit}", stacklevel=6)
    return folder, commit


def _cached(repository: str, revision: str | None, reason: str) -> tuple[Path, str]:
    """What the cache has of a checkpoint that cannot be asked for."""
    from huggingface_hub import hf_hub_download

    for name in _CONFIGS:
        try:
            path = hf_hub_download(repository, name, revision=revision, local_files_only=True)
        except Exception:
            continue
        folder = Path(path).parent
        names = listing(folder)
        try:
            if ADAPTER_CONFIG not in names:
                weights_files(folder, _weights(names, repository))
            elif not any(weights in names for weights in ADAPTER_WEIGHTS):
                raise CheckpointError(f"{repository} lacks the adapter's weights")
        except CheckpointError:
            raise CheckpointError(
                f"{reason}, and the cache holds only a part of {repository} ({folder})"
            ) from None
        return folder, folder.name
    at = "" if revision is None else f" at {revision}"
    raise CheckpointError(
        f"{repository} is no folder here, {reason}, and the hub's cache does not have it{at};"
        " download it where there is a network, or give a folder"
    )


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """The client's own progress bars, which only a terminal shows."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _first_line(error: Exception) -> str:
    """What an error says, within a line: those of HTTP libraries nest several others."""
    lines = str(error).strip().splitlines()
    return shorten(lines[0], 120, placeholder=" ...") if lines else type(error).__name__
