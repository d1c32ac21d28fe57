"""Who runs a round of reclamation: the claiming thread, a thread of its own, a task, or your own.

`Tracker(reclaimer=…)` takes "inline" (the default), "thread", "task", or an object with the methods of `Reclaimer`.
"""

from memquota._rounds import Reclaimer, Rounds
from memquota.reclaimers.inline import Inline, run_here
from memquota.reclaimers.task import Task
from memquota.reclaimers.thread import Standing
from memquota.tracker import reclaimer_kinds

__all__ = ["Inline", "Reclaimer", "Rounds", "Standing", "Task", "run_here"]

reclaimer_kinds.update(inline=Inline, thread=Standing, task=Task)
