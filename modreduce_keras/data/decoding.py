"""Decoding: continues prompts token by token with a causal language model."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.data.language_models import inputs_of, require_positions, require_unscaled


class Decoder:
    """Continues prompts with a model that gives the logits of the next token at each position.

    The model runs once for each new token, on all positions: what it computed for earlier ones is
    not kept.

    Args:
        model: A causal language model, or a function of tokens (batch, length): logits (batch,
            length, vocabulary).
        temperature: What the logits are divided by before a token is drawn; 0 takes the most
            likely one.
        end_token: The token that ends a text; `None` for none.
        pad_token: What follows a text that has ended.
    """

    def __init__(
        self, model: Any, temperature: float, end_token: int | None, pad_token: int
    ) -> None:
        self._temperature, self._end, self._pad = temperature, end_token, pad_token
        self._inputs = inputs_of(model)
        self._is_checked = False

        def logits_at(inputs: Any, position: Any) -> Any:
            # Functions of users have no argument `training`.
            whole = model(inputs, training=False) if _is_layer(model) else model(inputs)
            require_positions(tuple(whole.shape))
            return tf.cast(whole[:, position], "float32")

        self._logits_at = logits_at
        if _is_layer(model):
            self._logits_at = tf.function(logits_at, autograph=False)

    def __call__(
        self, tokens: np.ndarray, kept: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns texts, and which of their tokens were written.

        Args:
            tokens: Prompts, (batch, length), int32, with room at the end for what is written.
            kept: Which tokens are those of the prompts, of equal shape, bool.
            random: Draws the tokens.
        """
        tokens, prompted = tokens.copy(), kept
        kept, ended = kept.copy(), np.zeros(len(tokens), bool)
        for place in range(int(prompted.sum(axis=1).min()), tokens.shape[1]):
            writes = ~prompted[:, place] & ~ended
            if not writes.any():
                continue
            # The last column is what is predicted, and never what is read.
            inputs = self._inputs(tokens[:, :-1], kept[:, :-1])
            inputs = keras.tree.map_structure(tf.constant, inputs)
            logits = np.asarray(self._logits_at(inputs, tf.constant(place - 1)))
            if not self._is_checked:
                require_unscaled(logits)
                self._is_checked = True
            drawn = self._drawn(logits, random)
            tokens[:, place] = np.where(writes, drawn, tokens[:, place])
            kept[:, place] |= writes
            if self._end is not None:
                ended |= writes & (drawn == self._end)
        tokens[~kept] = self._pad
        return tokens, kept & ~prompted

    def _drawn(self, logits: np.ndarray, random: np.random.Generator) -> np.ndarray:
        # Of all rows, so that a text does not depend on which others have ended.
        noise = random.gumbel(size=logits.shape) if self._temperature else 0.0
        scaled = logits / self._temperature if self._temperature else logits
        return np.argmax(scaled + noise, axis=-1).astype("int32")


def _is_layer(model: Any) -> bool:
    return isinstance(model, keras.layers.Layer)
