"""How fast a run is beside what the machine could reach on it at best."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Roofline:
    """A run under the roof that the two ceilings of a machine make.

    `intensity` is FLOPs per byte of traffic, and `bound` the ceiling that is lower at it.
    `fraction` is achieved by roof. It exceeds 1 where data stay in a cache, or operators are
    fused: the traffic is that of unfused operators with an empty cache, and the ceiling of copies
    that of the memory behind the caches.
    """

    intensity: float
    achieved_gflops_s: float
    achieved_gb_s: float
    roof_gflops_s: float
    fraction: float
    bound: Literal["compute", "memory"]


def roofline(
    flops: int, traffic_bytes: int, seconds: float, ceilings: tuple[float, float]
) -> Roofline:
    """Place a run under the roof of a machine whose ceilings are (GFLOP/s, GB/s).

    Raises: ValueError for what is not above zero, or not finite.
    """
    gflops_s, gb_s = ceilings
    given = {
        "flops": flops,
        "traffic_bytes": traffic_bytes,
        "seconds": seconds,
        "ceiling of GFLOP/s": gflops_s,
        "ceiling of GB/s": gb_s,
    }
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"roofline takes numbers above zero; got {name} = {value}.")
    intensity = flops / traffic_bytes
    achieved = flops / seconds / 1e9
    roof = min(gflops_s, intensity * gb_s)
    return Roofline(
        intensity=intensity,
        achieved_gflops_s=achieved,
        achieved_gb_s=traffic_bytes / seconds / 1e9,
        roof_gflops_s=roof,
        fraction=achieved / roof,
        bound="compute" if gflops_s <= intensity * gb_s else "memory",
    )
