"""torch's number of threads: one where we compute, and the program's own everywhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from warprl.threads import one_thread, pool

PROGRAM = 3


@pytest.fixture(autouse=True)
def _program() -> Iterator[None]:
    """A program that computes with several threads, unlike the other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(PROGRAM)
    yield
    torch.set_num_threads(before)


def of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_inside_a_block_there_is_one_thread_and_after_it_those_of_before() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == of_a_new_thread() == PROGRAM


def test_each_thread_of_a_pool_has_one_and_the_program_keeps_its_own() -> None:
    with pool(2) as executor:
        assert list(executor.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
    assert torch.get_num_threads() == of_a_new_thread() == PROGRAM


def test_an_exception_restores_the_number_too() -> None:
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == of_a_new_thread() == PROGRAM


def test_blocks_within_one_another_restore_it_at_the_last() -> None:
    with one_thread():
        with pool(2) as executor:
            executor.submit(torch.get_num_threads).result()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == of_a_new_thread() == PROGRAM


def test_blocks_of_several_threads_restore_it_whichever_ends_last() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with one_thread():
        thread.start()
        inside.wait(60)
    leave.set()
    thread.join()
    assert torch.get_num_threads() == of_a_new_thread() == PROGRAM
