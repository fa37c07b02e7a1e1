"""Documents packed into sequences of tokens, for a model that learns to go on with a text.

All documents of a side stand one after the other in a stream, each behind a token that ends
the one before: `end, document, end, document, ..., end`. Sequence s reads the stream from its
cut to the next, and learns each following token. A document that is only written is cut where
a sequence is full; one with a prompt stays whole, shortened if it must be, and no loss falls on
the prompt. Nothing but the lengths of documents is held in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heliostat.data.encode import Inputs
from heliostat.data.prepared import Prepared
from heliostat.data.reader import EncodedRows

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where documents stand in the stream, and where sequences are cut: document d begins with
    the end token at `starts[d]`; its first `prompts[d]` tokens are its prompt; `whole[d]` says
    that it was not shortened. Sequence s reads [cuts[s], cuts[s + 1]).
    """

    starts: Rows
    prompts: Rows
    whole: npt.NDArray[np.bool_]
    cuts: Rows

    @classmethod
    def of(cls, prompts: Rows, answers: Rows, max_tokens: int, has_prompts: bool) -> Layout:
        """Lay out documents of these lengths."""
        lengths = 1 + prompts + answers
        whole = np.ones(len(lengths), bool)
        if has_prompts:
            whole = lengths <= max_tokens
            lengths = np.minimum(lengths, max_tokens)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        cuts = _whole_cuts(starts, max_tokens) if has_prompts else _even_cuts(starts, max_tokens)
        return cls(starts, np.minimum(prompts, np.maximum(lengths - 1, 0)), whole, cuts)


def _even_cuts(starts: Rows, max_tokens: int) -> Rows:
    total = int(starts[-1])
    return np.append(np.arange(0, total, max_tokens), total).astype(np.int64)


def _whole_cuts(starts: Rows, max_tokens: int) -> Rows:
    """As many whole documents as fit, one after the other."""
    cuts, at = [0], 0
    while at < len(starts) - 1:
        at = int(np.searchsorted(starts, starts[at] + max_tokens, "right")) - 1
        cuts.append(int(starts[at]))
    return np.array(cuts, np.int64)


class SequenceReader:
    """The sequences of some rows of a prepared copy, by number; the counterpart of `RowReader`.

    `answer` is the column that is learned, `prompt` the one before it, if there is one.
    """

    is_weighted = True
    runs_own_code = False

    def __init__(
        self, prepared: Prepared, rows: Rows, answer: str, prompt: str | None, end: int,
        max_tokens: int,
    ) -> None:  # fmt: skip
        self.prepared, self.end, self.max_tokens = prepared, end, max_tokens
        self.rows = rows
        self._columns = [prompt, answer] if prompt is not None else [answer]
        self.rows = rows[self._lengths(answer) > 0]  # a document without a token teaches nothing
        lengths = [self._lengths(name) for name in self._columns]
        prompts = lengths[0] if prompt is not None else np.zeros(len(self.rows), np.int64)
        self.layout = Layout.of(prompts, lengths[-1], max_tokens, prompt is not None)
        self._has_prompts = prompt is not None
        self._loss_tokens = self._count_loss_tokens()

    @property
    def num_documents(self) -> int:
        """How many hold a token."""
        return len(self.rows)

    @property
    def num_sequences(self) -> int:
        """How many there are."""
        return len(self.layout.cuts) - 1

    def encoded(self, sequences: Rows, names: Rows) -> EncodedRows:
        """`Inputs.categories` [sequences, tokens] are the tokens, `target` what follows each of
        them, `weights` 1 where a loss falls on that; behind a short sequence stand end tokens.
        """
        cuts = self.layout.cuts
        first, lengths = cuts[sequences], cuts[sequences + 1] - cuts[sequences]
        places = first[:, None] + np.arange(self.max_tokens + 1)
        tokens, counts = self._tokens(places.reshape(-1))
        tokens, counts = tokens.reshape(places.shape), counts.reshape(places.shape)
        present = np.arange(self.max_tokens) < lengths[:, None]
        inputs = np.where(present, tokens[:, :-1], self.end).astype(np.int32)
        targets = np.where(present, tokens[:, 1:], self.end).astype(np.int64)
        weights = (present & counts[:, 1:]).astype(np.float32)
        return EncodedRows(
            Inputs(np.empty((len(sequences), 0), np.float32), inputs), targets, names, weights
        )

    def weights(self, sequences: Rows) -> npt.NDArray[np.float64]:
        """On how many tokens of each sequence a loss falls."""
        counts: npt.NDArray[np.float64] = self._loss_tokens[sequences].astype(np.float64)
        return counts

    def _lengths(self, name: str) -> Rows:
        every = [np.diff(shard.texts[name].offsets) for shard in self.prepared.shards]
        lengths: Rows = np.concatenate(every).astype(np.int64)[self.rows]
        return lengths

    def _count_loss_tokens(self) -> Rows:
        """Tokens of the stream that are learned, from one cut to the next."""
        layout, total = self.layout, int(self.layout.starts[-1])
        if not self._has_prompts:
            return np.diff(layout.cuts)
        # Of document d: its answer, and the end token behind it if it is whole.
        answers = np.diff(layout.starts) - 1 - layout.prompts + layout.whole
        upto = np.concatenate([[0], np.cumsum(answers)])
        assert layout.cuts[-1] == total
        counts: Rows = np.diff(upto[np.searchsorted(layout.starts, layout.cuts)])
        return counts

    def _tokens(self, places: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """The tokens at places of the stream, and whether a loss falls on them; beyond its end
        stand end tokens.
        """
        layout = self.layout
        num_documents = len(layout.starts) - 1
        document = np.searchsorted(layout.starts, places, "right") - 1
        offset = places - layout.starts[document] - 1
        tokens = np.full(len(places), self.end, np.int64)
        before = np.clip(document - 1, 0, max(0, num_documents - 1))
        counts = layout.whole[before] & (document > 0)
        inside = (offset >= 0) & (document < num_documents)
        own, at = document[inside], offset[inside]
        is_prompt = at < layout.prompts[own]
        counts[inside] = ~is_prompt
        found = np.empty(len(own), np.int64)
        if self._has_prompts:
            found[is_prompt] = self._read(self._columns[0], own[is_prompt], at[is_prompt])
        written = ~is_prompt
        answer_at = at[written] - layout.prompts[own[written]]
        found[written] = self._read(self._columns[-1], own[written], answer_at)
        tokens[inside] = found
        return tokens, counts

    def _read(self, name: str, documents: Rows, places: Rows) -> Rows:
        """The tokens at `places` of a column of documents."""
        rows = self.rows[documents]
        of_shard = np.searchsorted(self.prepared.offsets, rows, "right") - 1
        tokens = np.empty(len(rows), np.int64)
        for shard in np.unique(of_shard).tolist():
            mine = of_shard == shard
            words = self.prepared.shards[shard].texts[name]
            local = rows[mine] - self.prepared.offsets[shard]
            tokens[mine] = words.hashes[words.offsets[local] + places[mine]]
        return tokens
