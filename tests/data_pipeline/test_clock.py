"""Parts that were joined end to end follow each other, and their streams stay together."""

from fractions import Fraction
from types import SimpleNamespace

from data_pipeline.clock import Clock, from_key_frame

PICTURE, SOUND = 0, 1


def packet(stream: int, time: int, late: int = 0, key: bool = True) -> SimpleNamespace:
    """A packet of 100 ms, decoded at `time` and shown `late` ms after that."""
    return SimpleNamespace(
        stream_index=stream,
        dts=time,
        pts=time + late,
        duration=100,
        time_base=Fraction(1, 1000),
        is_keyframe=key,
    )


def restamped(packets) -> list[int]:
    clock = Clock()
    for one in packets:
        clock.restamp(one)
    return [one.pts for one in packets]


def test_a_part_begins_where_the_last_stream_of_the_one_before_ends():
    first = [packet(PICTURE, time) for time in range(0, 2000, 100)]
    first += [packet(SOUND, time) for time in range(50, 2100, 100)]
    second = [packet(PICTURE, 0, 80), packet(SOUND, 20), packet(PICTURE, 100, 80)]
    assert restamped([*first, *second])[-3:] == [2150 + 80, 2150 + 20, 2150 + 180]


def test_a_sound_that_begins_late_in_its_part_is_of_that_part():
    first = [packet(stream, time) for time in (0, 2000, 4000) for stream in (PICTURE, SOUND)]
    second = [packet(PICTURE, time) for time in (0, 1000, 2000)]
    assert restamped([*first, *second, packet(SOUND, 1900)])[-1] == 4100 + 1900


def test_a_part_without_sound_lends_the_next_one_s_no_time():
    first = [packet(stream, time) for time in (0, 2000) for stream in (PICTURE, SOUND)]
    mute = [packet(PICTURE, time) for time in (0, 2000, 4000)]
    third = [packet(SOUND, 10), packet(PICTURE, 0)]
    assert restamped([*first, *mute, *third])[-2:] == [2100 + 4100, 2100 + 4100 - 10]


def test_a_clock_that_trembles_or_goes_back_far_from_its_beginning_does_not_start_anew():
    times = [0, 3000, 2500, 9000, 5000]
    assert restamped([packet(SOUND, time) for time in times]) == times


def test_packets_without_a_time_keep_it():
    late = packet(SOUND, 0)
    late.dts = late.pts = None
    assert restamped([packet(SOUND, 0), packet(SOUND, 3000), packet(SOUND, 0), late])[-1] is None


def test_a_decoder_begins_with_the_last_key_frame_before():
    packets = [packet(PICTURE, time, key=time % 300 == 0) for time in range(0, 1000, 100)]
    for seconds, first in ((0.0, 0), (0.25, 0), (0.35, 300), (0.6, 300), (0.61, 600), (9.0, 900)):
        taken = [one.dts for one in from_key_frame(packets, seconds)]
        assert taken == list(range(first, 1000, 100)), seconds
