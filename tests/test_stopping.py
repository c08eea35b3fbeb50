"""What asks a training to save and leave is heard once, and not at all where it is ignored."""

import signal

import pytest

from reta_jax.stopping import StopRequest


@pytest.fixture
def hangup():
    """A list that SIGHUP grows, where nothing else hears it."""
    heard = []
    before = signal.signal(signal.SIGHUP, lambda *_: heard.append("hangup"))
    yield heard
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_lost_says_so_twice_and_nohup_hears_it_not(hangup):
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)  # while it saves
    assert stop.requested and not hangup
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert not stop.requested and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
