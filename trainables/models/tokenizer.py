"""The tiny model's character tokenizer: one token per printable ASCII character and newline."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
SPECIAL = (PAD, EOS, UNKNOWN)
CHARACTERS = (
    string.digits
    + "+="
    + "".join(c for c in map(chr, range(32, 127)) if c not in string.digits + "+=")
    + "\n"
)
VOCABULARY = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS))}


def character_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer that `AutoTokenizer` can load. It adds no tokens of its own to a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
