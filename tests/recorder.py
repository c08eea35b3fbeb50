"""What a run draws from its loader."""


class Recorder:
    """Batches that are kept as they are drawn."""

    def __init__(self, batches):
        self._batches, self.drawn = batches, []

    def __next__(self):
        self.drawn.append(next(self._batches))
        return self.drawn[-1]

    def __getattr__(self, name):
        return getattr(self._batches, name)
