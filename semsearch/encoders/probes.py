"""Does an encoder give the vectors that the reference gives?"""

import numpy as np
from numpy.typing import NDArray

from semsearch.encoders.protocol import Encoder

LOWEST_COSINE = 0.9999
"""Between the reference's vector and a converted network's, for every text of the check."""
LOWEST_INT8_COSINE = 0.95

PROBES = (
    "entropy",
    "How do plants turn light into sugar?",
    "Why is the night sky dark if there are endlessly many stars",
    "A survey of methods for finding near-duplicate records in large bibliographies",
    "BERT, GPT-4 and T5: naïve baselines (p < 0.05) on 1,000 Übersetzungen, 翻訳 and traducción",
    "We show that $O(n \\log n)$ comparisons suffice, and that fewer than $\\Omega(n \\log n)$ never do. " * 2,
    "Patients who slept less than six hours a night were followed for ten years. Their blood pressure rose faster than "
    "that of those who slept longer, whatever their age, weight and diet; naps during the day made no difference. " * 2,
    "Rivers carry sediment from mountains to the sea, and where they slow down they let it fall. " * 12,
    "Each agent observes the moves of its neighbours and imitates whoever did best in the last round. " * 40,
)
"""Texts of our own from one word to more than any model here reads."""


def probed(encoder: Encoder) -> NDArray[np.float32]:
    """Return the encoder's vectors of the probes, first as passages, then as queries: shape (2 * probes, dimension)."""
    return np.concatenate([encoder.encode_passages(encoder.tokenise(PROBES)), encoder.encode_queries(PROBES)])


def compared(found: NDArray[np.float32], expected: NDArray[np.float32], lowest: float) -> tuple[float, str]:
    """Return the lowest cosine between the rows of the two, and what is wrong with it: nothing from `lowest` on."""
    worst = float(np.einsum("nd,nd->n", found, expected).min())
    if worst >= lowest:  # written so that NaN is too low
        return worst, ""
    return worst, f"its vectors have a cosine of only {worst:.5f} to those of sentence-transformers, not {lowest}"
