"""Epochs, played window by window."""

import itertools

import pytest

from dsi_jax.base import Blocks
from dsi_jax.planning.epochs import Conditions, expected_epoch, inherited_delay, run, windows


def test_windows_never_use_more_servers_than_there_are():
    for m, sp_degree, first, k in itertools.product((3.3, 15.1), (1, 2, 3, 5), (0, 2), (1, 4)):
        sent = [w.sent for w in itertools.islice(windows(Conditions(m, 0.7, sp_degree), Blocks(first, k)), 40)]
        assert all(after >= before + m - 1e-9 for before, after in zip(sent, sent[sp_degree:], strict=False))
        assert sent == sorted(sent)


@pytest.mark.parametrize(("m", "k", "first", "sp_degree"), [(6, 1, 0, 6), (12, 3, 0, 4), (12, 3, 2, 4), (20, 5, 4, 4)])
def test_expected_epoch_is_the_closed_form_where_servers_suffice(m, k, first, sp_degree):
    for a in (0.3, 0.8, 0.95):
        exact = m + first + a ** (first + 1) * k / (1 - a**k)
        assert run(expected_epoch(Conditions(m, a, sp_degree), Blocks(first, k))) == pytest.approx(exact, rel=2e-3)


def test_the_drafter_of_an_epoch_waits_by_the_waiting_rule():
    """t = 3.1 c: drafts end at 1, 2, 3 ..., and the verdict on d1 comes at 4.1, so 0.1 into the draft begun at 4."""
    sent = [w.sent for w in itertools.islice(windows(Conditions(3.1, 0.9, 7), Blocks(0, 1)), 7)]
    # zero-draft window at 0, its verdict at 3.1: q = 0.9, and 0.1 < 1.5 x 0.1. Then nothing comes amiss any more
    assert sent == pytest.approx([0, 1, 2, 3, 4.1, 5.1, 6.1])
    patient = [w.sent for w in itertools.islice(windows(Conditions(3.2, 0.9, 7), Blocks(0, 1)), 7)]
    assert patient == pytest.approx([0, 1, 2, 3, 4, 5, 6])  # 0.2 > 1.5 x 0.1


def test_an_epoch_inherits_nothing_where_servers_abound_and_t_is_a_multiple_of_c():
    assert run(inherited_delay(Conditions(6, 0.8, 6), Blocks(0, 1))) == pytest.approx(0, abs=1e-6)
    assert run(inherited_delay(Conditions(6, 0.8, 2), Blocks(0, 1))) > 0.1
