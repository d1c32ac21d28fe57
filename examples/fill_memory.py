"""A program that takes memory until the reading says stop, and gives it back.

It never meets the limit that it runs under, whatever that is: a container's, a control group's, the machine's.

    python examples/fill_memory.py --reserve 32MiB

Each line is what is available, in bytes: falling while it takes, at last what there is when all was given back.
"""

from __future__ import annotations

import argparse
import mmap
import sys

import memquota
from memquota import host


def fill(reserve: int, step: int, at_most: int) -> None:
    """Take steps of fresh memory until less than `reserve` and a step would be left; give all back in the end."""
    with host.detect() as cached:
        provider = cached.provider  # without the cache of 100 ms: each step is larger than nothing
        blocks: list[mmap.mmap] = []
        available = provider.read().available
        print(f"available {available}", flush=True)
        while available >= reserve + step and len(blocks) * step < at_most:
            blocks.append(take(step))
            available = provider.read().available
            print(f"available {available}", flush=True)
        print(f"stopped with {len(blocks) * step} bytes taken", flush=True)
        for block in blocks:
            block.close()
        print(f"returned {provider.read().available}", flush=True)


def take(size: int) -> mmap.mmap:
    """Fresh memory with every page in use: the kernel counts no other."""
    block = mmap.mmap(-1, size)
    for start in range(0, size, mmap.PAGESIZE):
        block[start] = 1
    return block


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reserve", default="32MiB", help="what is left alone (default: 32MiB)")
    parser.add_argument("--step", default="4MiB", help="what is taken at a time (default: 4MiB)")
    parser.add_argument("--at-most", default="1GiB", help="what is taken in all (default: 1GiB)")
    options = parser.parse_args()
    try:
        reserve, step, at_most = (
            memquota.parse_size(text, what=what)
            for what, text in (("reserve", options.reserve), ("step", options.step), ("at most", options.at_most))
        )
    except memquota.UsageError as error:
        parser.error(str(error))
    if not step:
        parser.error("a step must not be nothing")
    fill(reserve, step, at_most)
    return 0


if __name__ == "__main__":
    sys.exit(main())
