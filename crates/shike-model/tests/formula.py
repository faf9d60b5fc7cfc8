"""Weights by a formula, which the Rust tests have too: nothing is trivial, and nothing has to be downloaded."""

import numpy as np
import torch


def uniform(name, count):
    """`count` numbers in [0, 1) that depend on the name alone."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    x = (np.arange(count, dtype=np.uint64) * 2654435761 + seed) & 0xFFFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> 16)).astype(np.float64) / 2.0**32


def values(name, shape):
    u = uniform(name, int(np.prod(shape)))
    if name == "input":
        x = 3.4 * u - 1.7
    elif len(shape) > 1:
        fan_in = float(np.prod(shape[1:]))
        x = (2.0 * u - 1.0) * np.sqrt((6.0 if len(shape) == 4 else 3.0) / fan_in)
    elif name.endswith("running_var"):
        x = 0.5 + u
    elif name.endswith("running_mean"):
        x = 0.4 * u - 0.2
    elif name.endswith(("bn2.weight", "bn3.weight")):
        # Small, so that logits stay of the size that trained networks have.
        x = 0.1 + 0.2 * u
    elif name.endswith("weight"):
        x = 0.5 + u
    else:
        x = u - 0.5
    return torch.from_numpy(x.reshape(shape))


def fill(model):
    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(values(name, tuple(tensor.shape)))
    model.load_state_dict(state)
    return model
