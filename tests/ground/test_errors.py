"""What libraries raise of bad input becomes a sentence; what is not the input's stays."""

from __future__ import annotations

import errno

import pytest

from llmprobe.ground.errors import UserError, first_line, foreign_errors, out_of_memory


class Panic(BaseException):
    """As those of Rust are."""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by zero"), AttributeError("x"), Panic("at 1")]
)
def test_whatever_a_library_raises_is_said_in_a_sentence(error: BaseException) -> None:
    sentence = f"my.bin: cannot be read: {error}"
    with pytest.raises(UserError, match=sentence), foreign_errors("my.bin: cannot be read"):
        raise error


@pytest.mark.parametrize(
    "error",
    [UserError("as it is"), KeyboardInterrupt(), SystemExit(3), OSError(errno.ENOSPC, "full")],
)
def test_what_is_not_of_the_input_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, foreign_errors("my.bin"):
        raise error
    assert caught.value is error


def test_an_exception_can_be_left_to_others() -> None:
    with pytest.raises(MemoryError), foreign_errors("my.bin", unless=out_of_memory):
        raise MemoryError


def test_a_reason_is_one_line_and_not_long() -> None:
    assert first_line(ValueError("a\nb")) == "a"
    assert (
        first_line(ValueError("for field 'x':\n  not a number\nmore"))
        == "for field 'x': not a number"
    )
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("x" * 10_000))) < 400
