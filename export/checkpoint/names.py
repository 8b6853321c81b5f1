"""Names as wrappers leave them: what stands before, or within, the names that a model gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from ..errors import CheckpointError

#: Modules that hold another one and change nothing: torch.compile, FSDP, activation
#: checkpointing, strategies of Lightning and DeepSpeed.
_WRAPPERS = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
)


def unwrapped(
    names: Collection[str], is_expected: Callable[[str], bool], where: str
) -> dict[str, str]:
    """Each name, and what it is without wrappers.

    What stands before all names (``module.`` of DataParallel, the attribute of a LightningModule
    that holds the model, several of them) is what has to go for most of them to be expected.
    Nothing goes if it need not. A name that does not start so stays as it is.

    Args:
        names: of a checkpoint.
        is_expected: whether the model gives a tensor that name.
        where: what messages call the checkpoint.

    Raises:
        CheckpointError: there are several models in it, or two names would become one.
    """
    plain = {name: _without_wrappers(name) for name in names}
    prefix = _prefix(plain.values(), is_expected, where)
    result = {name: short.removeprefix(prefix) for name, short in plain.items()}
    twice = [name for name, count in Counter(result.values()).items() if count > 1]
    if twice:
        both = sorted(name for name, short in result.items() if short == twice[0])
        raise CheckpointError(
            f"{where} holds {' and '.join(both)}, which are the same tensor without a wrapper's"
            " prefix; save one of the two"
        )
    return result


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefix(names: Collection[str], is_expected: Callable[[str], bool], where: str) -> str:
    fitting: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for count in range(len(parts)):
            if is_expected(".".join(parts[count:])):
                fitting["".join(f"{part}." for part in parts[:count])] += 1
    most = max(fitting.values(), default=0)
    best = sorted((prefix for prefix in fitting if fitting[prefix] == most), key=len)
    if not best:
        return ""
    # "model." of a whole model and "model.model." of one without its head are the same choice.
    others = [prefix for prefix in best if not prefix.startswith(best[0])]
    if others:
        raise CheckpointError(
            f"{where} holds several models, under {', '.join(map(repr, [best[0], *others]))}; save"
            " the state dict of the one that is to be exported"
        )
    return best[0]
