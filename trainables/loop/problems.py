"""The task's problems as the loop reads them: token ids, reference answers, and where they came from."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from trainables.errors import SpecError
from trainables.tasks.base import Split, Task
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Problems:
    """Problems of each split of a task. A split is tokenised when it is first asked for."""

    def __init__(self, task: Task, config: TrialConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self._task = task
        self._config = config
        self._tokenizer = tokenizer
        self._tokens: dict[Split, list[list[int]]] = {}

    def prompts(self, split: Split) -> list[str]:
        """Return the text of each prompt."""
        return [problem.prompt for problem in self._task.split(split)]

    def answers(self, split: Split) -> list[str]:
        """Return each reference answer."""
        return [problem.answer for problem in self._task.split(split)]

    def tokens(self, split: Split) -> list[list[int]]:
        """Return the token ids of each prompt.

        Raises:
            SpecError: A prompt leaves no room for an answer in `engine.max_model_len`.
        """
        if split not in self._tokens:
            ids = self._tokenise(self.prompts(split))
            self._check_lengths(split, ids)
            self._tokens[split] = ids
        return self._tokens[split]

    def provenance(self, *splits: Split) -> dict[str, dict[str, Any]]:
        """Describe the data of each split for the journal: task, source, number and hash of the problems."""
        return {split: self._describe(split) for split in splits}

    def _describe(self, split: Split) -> dict[str, Any]:
        task, problems = self._config.task, self._task.split(split)
        digest = hashlib.sha256()
        for problem in problems:
            digest.update(json.dumps([problem.prompt, problem.answer]).encode())
        sources = {"train": task.train, "validation": task.validation, "test": task.test}
        source = sources[split] or f"{task.name}, data_seed {task.data_seed}"
        return {"name": task.name, "source": source, "problems": len(problems), "sha256": digest.hexdigest()}

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        if not self._config.task.chat:
            ids: list[list[int]] = self._tokenizer(texts)["input_ids"]
            return ids
        chats = [[{"role": "user", "content": text}] for text in texts]
        return [
            self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
            for chat in chats
        ]

    def _check_lengths(self, split: Split, ids: list[list[int]]) -> None:
        max_model_len, max_tokens = self._config.engine.max_model_len, self._config.sampling.max_tokens
        allowed = max_model_len - max_tokens
        longest = max(len(prompt) for prompt in ids)
        if longest > allowed:
            raise SpecError(
                f"engine.max_model_len: {max_model_len} holds a prompt of {allowed} tokens beside "
                f"sampling.max_tokens={max_tokens}, but the longest {split} prompt has {longest}; raise "
                f"engine.max_model_len to at least {longest + max_tokens}"
            )
