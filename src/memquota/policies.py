"""Which victim comes first: the built-in policies, and what your own one gets to judge by.

A policy is a callable that gives a `Candidate` a key; the largest key is asked first. The priority of the account
comes before the key, and an account at or below its `minimum` is not asked at all. A key of NaN comes last. A policy
that raises, or whose keys cannot be compared, is logged, and oldest data goes first instead.

```python
tracker = memquota.Tracker("512MiB", policy="byte_seconds")
tracker = memquota.Tracker("512MiB", policy=lambda candidate: candidate.bytes * candidate.age**2)
```
"""

from memquota._core.victims import Candidate, Policy, byte_seconds, largest, oldest_data

__all__ = ["Candidate", "Policy", "byte_seconds", "largest", "oldest_data"]
