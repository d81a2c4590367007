"""Generated text: batches that a language model writes, for example the student in each epoch."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from modreduce_keras.arguments import require_integer, require_number
from modreduce_keras.data.decoding import Decoder
from modreduce_keras.data.epochs import Epochs
from modreduce_keras.data.language_models import (
    PADDING,
    TOKENS,
    inputs_of,
    require_fitting,
    require_logits,
)


def generated(
    model: Any,
    prompts: Any,
    *,
    length: int,
    every: int | None = 1,
    batch_size: int = 32,
    temperature: float = 1.0,
    end_token: int | None = None,
    pad_token: int = 0,
    generate: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> keras.utils.PyDataset:
    """Returns batches of prompts that a language model has continued, for `fit`.

    On-policy distillation trains the student on text that it generates itself; the teacher's
    logits show what would have been better:

        train = mr.data.generated(student, prompts, length=128)
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge="gkd")
        distiller.compile("adam", loss=None)  # what it wrote is no label
        distiller.fit(train, epochs=10)

    Sequence-level distillation trains the student on text that the teacher generates once:
    `generated(teacher, prompts, length=128, every=None)`. The loss on labels is then enough. If
    the teacher has another vocabulary, decode its text, and tokenize it for the student.

    A batch is `(x, y, sample_weight)`, as from keras-hub's causal preprocessors: `y` has the tokens
    of `x` shifted by one, and the weights are 1 where the model has generated `y` (including an end
    token), and 0 in prompts and padding. So a term is the sum over the generated tokens, divided by
    the number of all positions.

    All texts of an epoch are generated when it begins, with the current weights; random draws
    depend on the seed and the epoch. A resumed run generates the same texts as an uninterrupted one
    with `every=1`, or if the model is not being trained. Otherwise it generates new texts when it
    resumes, unless they are due in that epoch anyway. Without `generate`, the model runs once for
    each token, on all positions.

    Args:
        model: A causal language model: of tokens (batch, length), or of a dict of `"token_ids"` and
            perhaps `"padding_mask"`, that returns logits (batch, length, vocabulary), and not
            probabilities. Or a function of tokens that does so.
        prompts: Tokens of each prompt: a list of lists, or an array (prompts, length).
        length: Number of tokens in `x`; that of the model if its input has a fixed length. A prompt
            and what follows may have one more.
        every: New texts are generated every so many epochs. Defaults to 1. `None`: only once.
        batch_size: Number of texts in a batch. Defaults to 32.
        temperature: Sampling temperature; 0 always takes the most likely token. Defaults to 1.
        end_token: The token that ends a text. Defaults to `None`: texts are as long as they can be.
        pad_token: The token behind a text that has ended. Defaults to 0.
        generate: A faster way to write, such as `causal_lm.generate` of a keras-hub model without a
            preprocessor: a function of a dict of `"token_ids"` and `"padding_mask"`, (batch, length
            + 1), which is 1 in the prompts, that returns the dict with the tokens filled in and the
            mask of the whole text. `temperature`, `end_token` and `seed` are then not used.
        seed: Seed of the sampling, non-negative. The same seed and weights give the same texts.

    Returns:
        A `keras.utils.PyDataset`, for `fit` and other loops.

    Raises:
        ValueError: If an argument is out of range, a prompt is empty, leaves no room or has tokens
            that the model does not know, or the model takes other inputs or returns something else
            than logits.

    Example:
        >>> import numpy as np
        >>> def next_number(tokens):  # the logits of a model that counts
        ...     return 99.0 * np.eye(10)[(np.asarray(tokens) + 1) % 10]
        >>> (x, y, weights), = generated(next_number, [[3, 4], [7]], length=4, end_token=9)
        >>> x.tolist(), y.tolist()
        ([[3, 4, 5, 6], [7, 8, 9, 0]], [[4, 5, 6, 7], [8, 9, 0, 0]])
        >>> weights.astype(int).tolist()
        [[0, 1, 1, 1], [1, 1, 0, 0]]

    Reference:
        Agarwal et al., On-Policy Distillation of Language Models: Learning from Self-Generated
        Mistakes, 2023; Kim and Rush, Sequence-Level Knowledge Distillation, 2016.
    """
    length = require_integer("length", length)
    require_number("temperature", temperature, 0.0)
    pad_token = require_integer("pad_token", pad_token, least=0)
    end_token = require_integer("end_token", end_token, least=0, optional=True)
    if generate is not None and (temperature != 1.0 or end_token is not None):
        raise ValueError(
            "temperature= and end_token= are of the draws that are made without generate=, which "
            f"draws as it is set up. Received: {temperature=}, {end_token=} beside generate="
        )
    inputs = inputs_of(model)
    texts, kept = _padded(prompts, length + 1, pad_token)
    tokens = {"prompts": texts[kept], "end_token": end_token, "pad_token": pad_token}
    require_fitting(model, length, tokens)
    if generate is None:  # else the model writes nothing itself
        require_logits(model)
    decode = Decoder(model, temperature, end_token, pad_token)
    write = decode if generate is None else _by(generate, pad_token)
    return _Generated(
        write,
        inputs,
        texts,
        kept,
        every=require_integer("every", every, optional=True),
        batch_size=require_integer("batch_size", batch_size),
        seed=require_integer("seed", seed, least=0),
    )


class _Generated(keras.utils.PyDataset):
    """Texts that are written when they are first read, and anew every few epochs."""

    def __init__(
        self,
        write: Callable[..., tuple[np.ndarray, np.ndarray]],
        inputs: Callable[[np.ndarray, np.ndarray], Any],
        prompts: np.ndarray,
        kept: np.ndarray,
        *,
        every: int | None,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self._write, self._inputs, self._prompts, self._kept = write, inputs, prompts, kept
        self._every, self._batch_size, self._seed = every, batch_size, seed
        self._epochs = Epochs()
        self._begun: int | None = None
        self._texts: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return -(-len(self._prompts) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches. Received: {index}")
        if self._texts is None:
            self._texts = self._written(0)
        rows = slice(index * self._batch_size, (index + 1) * self._batch_size)
        tokens, written = (array[rows] for array in self._texts)
        kept = self._kept[rows] | written
        weights = written[:, 1:].astype("float32")
        return self._inputs(tokens[:, :-1], kept[:, :-1]), tokens[:, 1:], weights

    def on_epoch_begin(self) -> None:
        """Writes the texts anew, if it is time to."""
        epoch = int(self._epochs())
        number = 0 if self._every is None else epoch // self._every
        due = self._every is not None and epoch % self._every == 0
        # What was read before an epoch has begun may be of other weights: those before a resume.
        if due or number != self._begun:
            self._texts, self._begun = self._written(number), number

    def _written(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([self._seed, number])
        parts = []
        for first in range(0, len(self._prompts), self._batch_size):
            rows = slice(first, first + self._batch_size)
            parts.append(self._write(self._prompts[rows], self._kept[rows], random))
        tokens, written = (np.concatenate(column) for column in zip(*parts, strict=True))
        return tokens, written


def _by(generate: Callable[[Any], Any], pad_token: int) -> Callable[..., Any]:
    """Returns what writes with a function of users."""

    def write(tokens: np.ndarray, kept: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        made = generate({TOKENS: tokens, PADDING: kept.astype("int32")})
        if not isinstance(made, Mapping) or not {TOKENS, PADDING} <= set(made):
            raise ValueError(
                f"generate must return a dict of {TOKENS!r} and {PADDING!r}, the mask of the "
                f"whole text. Received: {type(made).__name__}"
            )
        texts, whole = np.array(made[TOKENS], "int32"), np.asarray(made[PADDING]).astype(bool)
        if texts.shape != tokens.shape or whole.shape != tokens.shape:
            raise ValueError(
                f"generate must return tokens and mask of shape {tokens.shape}. Received: shapes "
                f"{texts.shape} and {whole.shape}"
            )
        texts[~whole] = pad_token
        return texts, whole & ~kept

    return write


def _padded(prompts: Any, length: int, pad_token: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns prompts, (prompts, length), and the mask of their tokens."""
    rows = [] if isinstance(prompts, str) else [np.asarray(prompt) for prompt in prompts]
    if not rows or any(row.ndim != 1 or (row.size and row.dtype.kind not in "iu") for row in rows):
        raise ValueError(
            "prompts must be tokens, which are integers: a list of lists, or an array (prompts, "
            f"length). Received: {str(prompts)[:60]}"
        )
    unfit = [len(row) for row in rows if not 0 < len(row) < length]
    if unfit:
        raise ValueError(
            f"Each prompt must have 1 to {length - 1} tokens, so that there is room to write one: "
            f"length is {length - 1}. Received: prompts of {unfit[:8]} tokens"
        )
    kept = np.arange(length) < np.array([len(row) for row in rows])[:, None]
    tokens = np.full((len(rows), length), pad_token, "int32")
    tokens[kept] = np.concatenate(rows)
    return tokens, kept
