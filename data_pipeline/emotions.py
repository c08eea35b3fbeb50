"""Emotion names, in MEAD's order; a clip's label is an index into them, -1 when unknown."""

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")
UNKNOWN_EMOTION = -1
_STEMS = ("ang", "contempt", "disgust", "fear", "happ", "neutral", "sad", "surpris")


def emotion_of(name: str) -> str | None:
    """The emotion that a word like "Anger", "disgust" or "happiness" names; None if it is none."""
    word = name.strip().lower()
    return next(
        (e for e, stem in zip(EMOTIONS, _STEMS, strict=True) if word.startswith(stem)), None
    )
