"""Seeds for everything random: derived from what they are for, so that no two streams repeat."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed for a purpose, for instance ``derive_seed(7, "frame", 3)``.

    Neighbouring seeds give unrelated streams, on any device. Each image of a half-set must have
    its own: consecutive draws of `torch.poisson` on CUDA from one generator can repeat themselves.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
