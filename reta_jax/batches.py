"""Batches as a config asks for them."""

import jax
from ml_collections import ConfigDict

from data_pipeline.augment import AugmentSpec
from data_pipeline.loader import WindowSpec, training_batches
from data_pipeline.records import list_splits
from reta_jax.config import swaps_emotions


def open_batches(config: ConfigDict, split: str = "train", batch_size: int | None = None):
    """This process's share of endless training batches, or whole test batches.

    The fields are described in data_pipeline/loader.py. Test batches come from the data sets that
    keep people for them: a data set of one person keeps none.

    Args:
      split: "train" or "test"; their identities are apart.
      batch_size: clips over all processes; default `train.batch_size`.
    """
    window = config.model.window
    batch_size = batch_size or config.train.batch_size
    trains = split == "train"
    swaps = trains and swaps_emotions(config) and config.data.pair_for_eds
    parts = jax.device_count() * config.train.accumulate if swaps else 1
    shares = dict(zip(config.data.dirs, config.data.weights, strict=True))
    if not trains:
        shares = {dir: shares[dir] for dir in shares if split in list_splits(dir)} or shares
    return training_batches(
        shares,
        split=split,
        batch_size=batch_size,
        window=WindowSpec(
            frames=config.train.frames,
            size=config.model.size,
            past=window.past,
            chunk=window.chunk,
            look_ahead=window.look_ahead,
            portrait=config.data.portrait,
            steady=config.data.steady,
        ),
        seed=config.train.seed,
        process_index=jax.process_index() if trains else 0,
        process_count=jax.process_count() if trains else 1,
        max_identity_share=config.data.max_identity_share,
        pair_within=batch_size // parts if swaps else 0,
        augment=AugmentSpec(**config.data.augment) if trains else AugmentSpec(),
        threads=config.data.readers or None,
    )
