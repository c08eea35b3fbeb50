"""Table entries of ordinary PyTorch layers; `apply_table` reads them."""

from reta_jax.pretrained.table import Entry, Transform, conv, linear

NOT_WEIGHTS = r".*num_batches_tracked"  # a counter that every batch norm carries
Entries = dict[str, Entry]


def conv_layer(key: str, path: str, bias: bool = True, kernel: Transform = conv) -> Entries:
    entries = {f"{key}.weight": Entry(f"{path}/kernel", kernel)}
    return entries | {f"{key}.bias": Entry(f"{path}/bias")} if bias else entries


def linear_layer(key: str, path: str) -> Entries:
    return conv_layer(key, path, kernel=linear)


def norm(key: str, path: str) -> Entries:
    return {f"{key}.weight": Entry(f"{path}/scale"), f"{key}.bias": Entry(f"{path}/bias")}


def batch_norm(key: str, path: str) -> Entries:
    """Into the two collections of a module's variables, so other entries need `params/` too."""
    return norm(key, f"params/{path}") | {
        f"{key}.running_mean": Entry(f"batch_stats/{path}/mean"),
        f"{key}.running_var": Entry(f"batch_stats/{path}/var"),
    }
