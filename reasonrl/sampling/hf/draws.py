"""Random numbers that depend only on (seed, id, k, position).

A counter-based generator: the number is a hash of where it is used, so it is the same whatever the batch, the shard or
the order. The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014), applied once for each
coordinate; it runs on whole arrays.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def row_keys(seed: int, ids: list[str], samples: range) -> np.ndarray:
    """(len(ids) · len(samples),) uint64: a key for each k in `samples`, those of one problem next to each other."""
    heads = [hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest() for name in ids]
    problem = np.frombuffer(b"".join(heads), dtype="<u8")
    sample = _mix((np.array(samples, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
    return _mix(problem[:, None] ^ sample[None, :]).reshape(-1)


def uniforms(keys: np.ndarray, start: int, count: int) -> np.ndarray:
    """(len(keys), count) float32 in [0, 1): the draws of each sample for positions start … start + count − 1."""
    positions = (np.arange(start, start + count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
    bits = _mix(keys[:, None] + positions[None, :])
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
