from pathlib import Path

import numpy as np
import pytest

from gbif_platform.evaluation import answers as answers_module
from gbif_platform.evaluation.answers import Answers, AnswersError
from gbif_platform.storage.objects import ObjectStore


@pytest.fixture
def numbers() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1000, 7)).astype(np.float16)


def test_a_file_and_an_object_are_read_block_by_block(
    numbers: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "BLOCK_BYTES", 14 * 64)
    np.save(tmp_path / "logits.npy", numbers)
    store = ObjectStore(str(tmp_path))
    for opened in (Answers.open(tmp_path / "logits.npy"), Answers.of_object(store, "logits.npy")):
        assert (len(opened), opened.classes) == (1000, 7)
        assert len(list(opened.spans())) == 16
        np.testing.assert_array_equal(opened.array(), numbers)


def test_selected_rows_come_in_the_order_asked_and_other_blocks_are_not_read(
    numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "BLOCK_BYTES", 14 * 64)
    chosen = np.array([999, 3, 3, 70, 64])
    some = Answers.of_array(numbers).select(chosen)
    assert [start for start, _ in some.spans()] == [0, 64, 960]
    np.testing.assert_array_equal(some.array(), numbers[chosen])
    np.testing.assert_array_equal(some.select(np.array([False, True, False, False, True])).array(), numbers[[3, 64]])
    assert len(some.select(np.zeros(5, bool)).array()) == 0


def test_a_row_that_there_is_not_is_told(numbers: np.ndarray) -> None:
    with pytest.raises(AnswersError, match="has 1000 rows, not 1001"):
        Answers.of_array(numbers).select(np.array([1000]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no .npy file"),
        (b"not a numpy file at all", "no .npy file"),
        (np.zeros((2, 3), np.float32), "not float16"),
        (np.zeros(3, np.float16), "not float16"),
        (np.asfortranarray(np.zeros((2, 3), np.float16)), "not float16"),
        (np.array([[{}]]), "not float16"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, content: bytes | np.ndarray, message: str) -> None:
    path = tmp_path / "logits.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(AnswersError, match=message):
        Answers.open(path)


def test_a_torn_file_is_refused(tmp_path: Path, numbers: np.ndarray) -> None:
    path = tmp_path / "logits.npy"
    np.save(path, numbers)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AnswersError, match="bytes, which is not what"):
        Answers.open(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AnswersError, match="cannot be read"):
        Answers.open(tmp_path / "none.npy")
    with pytest.raises(AnswersError, match="no object"):
        Answers.of_object(ObjectStore(str(tmp_path)), "none.npy")
