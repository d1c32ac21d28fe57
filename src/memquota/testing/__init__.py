"""For tests of programs that use memquota, and of memquota itself: a clock, participants that do as told, a check.

```python
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance

clock = FakeClock()
tracker = memquota.Tracker(1000, clock=clock)
victim = ScriptedParticipant(tracker.new_account("victim"), clock, answer="raise")
```
"""

from memquota.testing.books import assert_books_balance
from memquota.testing.clock import FakeClock
from memquota.testing.participants import AsyncScriptedParticipant, ScriptedParticipant

__all__ = ["AsyncScriptedParticipant", "FakeClock", "ScriptedParticipant", "assert_books_balance"]
