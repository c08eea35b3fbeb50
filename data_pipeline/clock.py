"""The time of what is in files that were joined end to end, where the clock starts anew.

Picture and sound are decoded apart, and do not end together. What both decoders see alike is the
packets in the order of the file: of those a `Clock` makes one time, so that both stay in step.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator

import av

_RESTART = 1.0  # seconds: a clock that goes back by more, and so near to its beginning, starts anew


@dataclasses.dataclass
class _Stream:
    """Where one stream is, in seconds as the file has them."""

    start: float | None = None
    last: float = -math.inf
    part: int = 0


class Clock:
    """Restamps the packets of a file so that each part of it begins where those before end."""

    def __init__(self):
        self._streams = collections.defaultdict(_Stream)
        self._shifts = [0.0]  # seconds that are added to the times of each part
        self._reached = -math.inf  # time in the last part, as the file has it
        self._end = -math.inf  # of all parts, as restamped

    def restamp(self, packet: av.Packet) -> None:
        """Gives a packet its time in the whole; packets come as they lie in the file."""
        stream = self._streams[packet.stream_index]
        if packet.dts is not None:
            self._go_to(stream, float(packet.dts * packet.time_base))
        shift = round(self._shifts[stream.part] / packet.time_base)
        if packet.dts is not None:
            packet.dts += shift
        if packet.pts is not None:
            packet.pts += shift
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._end = max(self._end, end)

    def _go_to(self, stream: _Stream, time: float) -> None:
        """Finds the part that a stream's next packet, which is in order of decoding, lies in."""
        if stream.start is None:
            stream.start = time
        goes_back, latest = time < stream.last - _RESTART, len(self._shifts) - 1
        if goes_back and stream.part < latest and self._reached < time + _RESTART:
            stream.part = latest  # Another stream of this part has come before.
        elif goes_back and time < stream.start + _RESTART:
            self._shifts.append(self._end - time)
            stream.part, self._reached = latest + 1, time
        stream.last = time
        if stream.part == len(self._shifts) - 1:
            self._reached = max(self._reached, time)


def may_start_anew(container: av.container.InputContainer) -> bool:
    """Whether files of this format are joined by writing one behind the other."""
    return bool(container.format.flags & av.format.Flags.ts_discont.value)


def packets_in_step(
    container: av.container.InputContainer, stream: av.stream.Stream
) -> Iterator[av.Packet]:
    """The packets of one stream, by the clock of the first picture and the first sound."""
    clock = Clock()
    heard = {*container.streams.video[:1], *container.streams.audio[:1], stream}
    for packet in container.demux(*heard):
        clock.restamp(packet)
        if packet.stream_index == stream.index:
            yield packet


def from_key_frame(packets: Iterable[av.Packet], seconds: float) -> Iterator[av.Packet]:
    """Leaves out what comes before the last packet by `seconds` that a decoder can begin with."""
    packets, group = iter(packets), []
    for packet in packets:
        is_late = packet.dts is None or packet.dts * packet.time_base >= seconds
        if packet.is_keyframe and not is_late:
            group.clear()
        group.append(packet)
        if is_late:
            break
    yield from group
    yield from packets
