"""Emotion names, in MEAD's order; a clip's label is an index into them, -1 when unknown."""

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")
UNKNOWN_EMOTION = -1
