"""The reference policy of a KL in the loss: which model it is, and whether its tokens are the policy's.

No torch, no network: from config.json, tokenizer.json and the headers of the weights.
"""

from __future__ import annotations

from pathlib import Path

from trainables.config import KlConfig
from trainables.errors import ModelError
from trainables.models.files import check_weights
from trainables.models.resolve import is_hub_id
from trainables.models.shape import TINY, config_file, read_config
from trainables.models.tokenizer import VOCABULARY

START = "start"
"""What a spec calls the weights that the run starts from."""
FIELD = "trial.loss.kl.reference"
FIX = f"give a model with the policy's vocabulary, or {START!r} for the weights that the run starts from"


def reference_of(config: KlConfig, start: str) -> str | None:
    """Return the path or hub id to load the reference from; None where the loss has no KL.

    `start` is the path or hub id of the weights that the run starts from.
    """
    if not config.coefficient:
        return None
    if config.reference == START:
        return start
    path = Path(config.reference).expanduser()
    return str(path) if path.is_dir() else config.reference


def check_reference(config: KlConfig, model: str) -> None:
    """Refuse a reference that is not there or whose token ids are not those of the policy, `model`.

    Quick: reads no network. Where a hub id has no copy here, only its loading compares the vocabularies
    (`trainables.learner.policy.Reference`).

    Raises:
        ModelError: with the field, the value and the fix.
    """
    if not config.coefficient or config.reference == START:
        return
    path = Path(config.reference).expanduser()
    if not (path / "config.json").is_file() and not is_hub_id(config.reference, path):
        missing = "holds no config.json" if path.is_dir() else "is neither a directory nor a hub id"
        raise ModelError(f"{FIELD}: {config.reference!r} {missing}; {FIX}")
    if (path / "config.json").is_file():
        check_weights(path, read_config(path / "config.json", FIELD), FIELD)
    theirs, ours = _size(config.reference, FIELD), _size(model, "trial.model")
    if theirs is not None and ours is not None and theirs < ours:
        raise ModelError(
            f"{FIELD}: {config.reference!r} knows {theirs} token ids and the policy {model!r} {ours}; {FIX}"
        )
    wanted, found = _tokens(model, "trial.model"), _tokens(config.reference, FIELD)
    if wanted is None or found is None:
        if theirs != ours and theirs is not None and ours is not None:
            raise ModelError(
                f"{FIELD}: {config.reference!r} knows {theirs} token ids and the policy {model!r} {ours}, "
                f"and no tokenizer.json tells that they mean the same; {FIX}"
            )
        return
    for token, number in wanted.items():
        if found.get(token) != number:
            there = f"has id {found[token]}" if token in found else "is unknown"
            raise ModelError(
                f"{FIELD}: token {token!r}, which has id {number} in the policy {model!r}, {there} in "
                f"{config.reference!r}; {FIX}"
            )


def _size(model: str, field: str) -> int | None:
    """Return the number of token ids in config.json; None where it cannot be told."""
    if model == TINY:
        return len(VOCABULARY)
    file = config_file(model)
    if file is None:
        return None
    raw = read_config(file, field)
    size = raw.get("text_config", raw).get("vocab_size")
    return size if isinstance(size, int) else None


def _tokens(model: str, field: str) -> dict[str, int] | None:
    """Return the id of each token in tokenizer.json; None where it cannot be told."""
    if model == TINY:
        return VOCABULARY
    file = config_file(model)
    if file is None or not (file.parent / "tokenizer.json").is_file():
        return None
    raw = read_config(file.parent / "tokenizer.json", field)
    pieces = raw.get("model", {}).get("vocab")
    if isinstance(pieces, list):  # unigram models list pairs of token and score
        pieces = {piece[0]: number for number, piece in enumerate(pieces)}
    if not isinstance(pieces, dict):
        return None
    return pieces | {added["content"]: added["id"] for added in raw.get("added_tokens", [])}
