"""The synthetic world as a data set: as many identities as wanted, nothing to download."""

import dataclasses
from collections.abc import Callable, Iterator

from data_pipeline.audio import FPS
from data_pipeline.clips import Outcome
from data_pipeline.emotions import EMOTIONS
from data_pipeline.records import Source, encode_clip
from data_pipeline.synthetic import synthesize_clip

_NEUTRAL = EMOTIONS.index("neutral")
_OTHERS = [index for index in range(len(EMOTIONS)) if index != _NEUTRAL]
_SEEDS_PER_RUN = 1_000_000


@dataclasses.dataclass(frozen=True)
class SyntheticJob:
    """One clip of the synthetic world."""

    clip: str
    identity: str
    source: str  # empty: there is no file
    identity_seed: int
    clip_seed: int
    emotion: int
    seconds: float
    size: int

    def run(self) -> Iterator[Outcome]:
        """Synthesizes the clip."""
        clip = synthesize_clip(
            self.identity_seed, EMOTIONS[self.emotion], self.clip_seed, self.seconds, self.size
        )
        example = encode_clip(clip._replace(identity=self.identity, clip=self.clip))
        yield Outcome(self.clip, example, 0.0, len(clip.frames) / FPS)


def jobs(
    identities: int, clips_per_identity: int, seconds: float, size: int, seed: int
) -> list[SyntheticJob]:
    """Every identity's first clip is neutral; the others take the emotions in turn."""
    found = []
    for person in range(identities):
        identity = f"synthetic_{seed}_{person:05d}"
        for take in range(clips_per_identity):
            turn = person * (clips_per_identity - 1) + take - 1
            found.append(
                SyntheticJob(
                    clip=f"{identity}_{take:03d}",
                    identity=identity,
                    source="",
                    identity_seed=seed * _SEEDS_PER_RUN + person,
                    clip_seed=seed * _SEEDS_PER_RUN + person * clips_per_identity + take,
                    emotion=_OTHERS[turn % len(_OTHERS)] if take else _NEUTRAL,
                    seconds=seconds,
                    size=size,
                )
            )
    return found


def split_of(identities: int) -> Callable[[Source], str]:
    """The last 15 % of the identities, one at least if there are two, are for judging."""
    held_out = max(round(0.15 * identities), min(1, identities - 1))

    def split(source: Source) -> str:
        return "test" if int(source.identity[-5:]) >= identities - held_out else "train"

    return split
