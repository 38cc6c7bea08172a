"""Which reference policy a run gets, and which are refused. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from models import looks_like_a_model, write_weights

from trainables.config import KlConfig
from trainables.loop.lease import Lease
from trainables.loop.state import Run
from trainables.models.reference import check_reference, reference_of
from trainables.models.tokenizer import VOCABULARY
from trainables.trial import TrialConfig
from trimtab.errors import ModelError


def model(folder: Path, size: int = len(VOCABULARY), vocabulary: Any = VOCABULARY) -> Path:
    """A directory that looks like a model: config.json, and tokenizer.json unless `vocabulary` is None."""
    looks_like_a_model(folder, vocabulary, vocab_size=size)
    if vocabulary is None:
        (folder / "tokenizer.json").unlink()
    return folder


def kl(reference: str | Path, coefficient: float = 0.1) -> KlConfig:
    return KlConfig(coefficient=coefficient, reference=str(reference))


def test_a_model_of_the_same_tokens_fits(tmp_path: Path, tiny_model: Path) -> None:
    for policy in ("tiny", str(tiny_model)):
        check_reference(kl("start"), policy)
        check_reference(kl(tiny_model), policy)
        check_reference(kl(model(tmp_path / Path(policy).name)), policy)
    check_reference(kl(model(tmp_path / "padded", size=128)), "tiny")
    check_reference(kl("owner/not-here"), "tiny")


def test_lists_of_pieces_and_added_tokens_are_read(tmp_path: Path) -> None:
    pieces = [[token, -1.0] for token in list(VOCABULARY)[:-1]]
    *_, last = VOCABULARY
    folder = model(tmp_path / "unigram", vocabulary=pieces)
    with pytest.raises(ModelError, match="is unknown"):
        check_reference(kl(folder), "tiny")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["added_tokens"] = [{"content": last, "id": VOCABULARY[last]}]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    check_reference(kl(folder), "tiny")


@pytest.mark.parametrize(
    ("size", "vocabulary", "message"),
    [
        (50, VOCABULARY, r"knows 50 token ids and the policy 'tiny' \d+; give"),
        (128, None, r"knows 128 token ids and the policy 'tiny' \d+, and no tokenizer\.json tells"),
        (128, VOCABULARY | {"7": 127}, r"token '7', which has id 10 in the policy 'tiny', has id 127 in"),
        (128, {k: v for k, v in VOCABULARY.items() if k != "7"}, r"token '7', .*, is unknown in"),
    ],
)
def test_other_tokens_are_refused(tmp_path: Path, size: int, vocabulary: Any, message: str) -> None:
    folder = model(tmp_path / "other", size, vocabulary)
    with pytest.raises(ModelError, match=rf"^trial\.loss\.kl\.reference: .*{message}.*'start'"):
        check_reference(kl(folder), "tiny")
    check_reference(kl(folder, coefficient=0.0), "tiny")


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"kl\.reference: '/no/such' is neither a directory nor a hub id"):
        check_reference(kl("/no/such"), "tiny")
    with pytest.raises(ModelError, match=r"kl\.reference: .* holds no config\.json"):
        check_reference(kl(tmp_path), "tiny")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ModelError, match=r"kl\.reference: .* cannot be read as JSON"):
        check_reference(kl(tmp_path), "tiny")


class Reset(Exception):
    """Carries what the learner is reset with, and ends the run."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"reference": "/somewhere"}, None),
        ({"coefficient": 0.1}, "/base"),
        ({"coefficient": 0.1, "reference": "owner/name"}, "owner/name"),
    ],
)
def test_a_run_resets_the_learner_with_its_reference(
    tmp_path: Path, settings: dict[str, Any], expected: str | None
) -> None:
    def reset(*arguments: Any) -> None:
        raise Reset(*arguments)

    nothing: Any = None
    config = TrialConfig.model_validate({"strategy": "grpo", "loss": {"kl": settings}})
    learner: Any = SimpleNamespace(reset=reset)
    with pytest.raises(Reset) as caught:
        Run.start(Lease("/base", nothing, learner, nothing, nothing, nothing), config, 0, tmp_path)
    assert caught.value.args[0] == "/base"
    assert caught.value.args[-1] == expected


def test_a_directory_is_given_with_the_users_home_in_place(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = model(tmp_path / "mine")
    assert reference_of(kl("~/mine"), "/base") == str(folder)
    check_reference(kl("~/mine"), "tiny")


def test_a_reference_without_whole_weights_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"trial\.loss\.kl\.reference: .*model\.safetensors' is cut short"):
        check_reference(kl(folder), "tiny")
    weights.unlink()
    with pytest.raises(ModelError, match=r"trial\.loss\.kl\.reference: .*holds no weights"):
        check_reference(kl(folder), "tiny")
    write_weights(weights)
    check_reference(kl(folder), "tiny")
