"""Which tokens of a text does the model read?

One tokeniser for every encoder but the reference, which keeps its own: a second way that the first is checked against.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from semsearch.encoders.model import ModelFolder, read_json
from semsearch.errors import EncoderError


class Tokenised(NamedTuple):
    """A text, the numbers of the tokens that the model reads of it, and how many it has in all, special ones too."""

    text: str
    ids: list[int]
    whole: int


class Tokeniser:
    """The model's own tokeniser, with its prompts; safe to share between threads."""

    def __init__(self, model: ModelFolder) -> None:
        """Read the tokeniser.

        :raises EncoderError: if its file is damaged.
        """
        path = model.path / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise EncoderError(f"{path} cannot be read: {error}") from error
        self._padding = _padding_token(self._tokenizer, read_json(model.path / "tokenizer_config.json") or {})
        self._tokenizer.enable_truncation(model.spec.max_tokens)
        self._tokenizer.no_padding()
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._passage_prompt = model.passage_prompt
        self._query_prompt = model.query_prompt

    def passages(self, texts: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens, their prompt's before them."""
        return self._tokenised(texts, self._passage_prompt)

    def queries(self, texts: Sequence[str]) -> list[Tokenised]:
        """Return the queries' tokens, their prompt's before them."""
        return self._tokenised(texts, self._query_prompt)

    def _tokenised(self, texts: Sequence[str], prompt: str) -> list[Tokenised]:
        encodings = self._tokenizer.encode_batch_fast([prompt + text for text in texts])
        return [
            Tokenised(text, encoding.ids, len(encoding.ids) + self._cut(encoding))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _cut(self, encoding: Any) -> int:
        return sum(len(rest.ids) - self._special for rest in encoding.overflowing)

    def padded(self, batch: Sequence[Tokenised], *, step: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the batch's token numbers and its attention mask, both of shape (n, longest length).

        :param step: the longest length is rounded up to a multiple of it.
        """
        longest = -(-max(len(tokenised.ids) for tokenised in batch) // step) * step
        ids = np.full((len(batch), longest), self._padding, dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        for row, tokenised in enumerate(batch):
            ids[row, : len(tokenised.ids)] = tokenised.ids
            mask[row, : len(tokenised.ids)] = 1
        return ids, mask


def of_one_length(
    batch: Sequence[Tokenised], encode: Callable[[Sequence[Tokenised]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return the vectors of the batch, encoded in groups of one length each.

    Padding changes the last bits of a vector. OpenVINO gives a text the same vector alone and among others of its
    length, so a query gets the same answer however many others are asked at the same moment.
    """
    places: dict[int, list[int]] = {}
    for place, tokenised in enumerate(batch):
        places.setdefault(len(tokenised.ids), []).append(place)
    groups = [encode([batch[place] for place in group]) for group in places.values()]
    vectors = np.empty((len(batch), groups[0].shape[1]), dtype=np.float32)
    for group, encoded in zip(places.values(), groups, strict=True):
        vectors[group] = encoded
    return vectors


def _padding_token(tokenizer: Tokenizer, config: dict[str, Any]) -> int:
    """Return the padding token's number: some models count positions by it, so that any number would not do."""
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    token = config.get("pad_token")
    name = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_to_id(name or "[PAD]") or 0
