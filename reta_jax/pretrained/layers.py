"""Table entries of ordinary PyTorch layers; `apply_table` reads them."""

from reta_jax.pretrained.table import Entry, Transform, conv, linear

NOT_WEIGHTS = r".*num_batches_tracked"  # a counter that every batch norm carries
Entries = dict[str, Entry]
Shape = tuple[int, ...]


def conv_layer(
    key: str, path: str, shape: Shape, bias: bool = True, kernel: Transform = conv
) -> Entries:
    """`shape`: (O, I, *window)."""
    entries = {f"{key}.weight": Entry(f"{path}/kernel", shape, kernel)}
    return entries | {f"{key}.bias": Entry(f"{path}/bias", shape[:1])} if bias else entries


def linear_layer(key: str, path: str, shape: Shape) -> Entries:
    """`shape`: (O, I)."""
    return conv_layer(key, path, shape, kernel=linear)


def norm(key: str, path: str, width: int) -> Entries:
    return {
        f"{key}.weight": Entry(f"{path}/scale", (width,)),
        f"{key}.bias": Entry(f"{path}/bias", (width,)),
    }


def batch_norm(key: str, path: str, width: int) -> Entries:
    """Into the two collections of a module's variables, so other entries need `params/` too."""
    return norm(key, f"params/{path}", width) | {
        f"{key}.running_mean": Entry(f"batch_stats/{path}/mean", (width,)),
        f"{key}.running_var": Entry(f"batch_stats/{path}/var", (width,)),
    }
