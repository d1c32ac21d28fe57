"""What was declared and what is used, by component.

A component declares what it needs and what it will not exceed (`Bounds`, in a `ComponentRegistry`); that is verified
against what the process was given (`Grant`), and compared with what it claims, allocates and computes (`Report`).
"""

from memquota.accounting import allocations
from memquota.accounting.bounds import Bounded, Bounds, BoundsBuilder, ComponentBounds
from memquota.accounting.expressions import Constant, Expression, Maximum, Minimum, Product, Setting, SizeOf, Sum
from memquota.accounting.grant import Grant
from memquota.accounting.groups import Group, detached, group
from memquota.accounting.problems import Contradiction, Contributor, Overcommitment
from memquota.accounting.registry import Component, ComponentRegistry
from memquota.accounting.report import ComponentReport, Report, TrackerReport
from memquota.accounting.sampling import Sampled, Sampling
from memquota.accounting.statistics import GroupStatistics
from memquota.accounting.structures import structure_size
from memquota.accounting.verify import VerifiedBounds
from memquota.errors import BoundsError

__all__ = [
    "Bounded",
    "Bounds",
    "BoundsBuilder",
    "BoundsError",
    "Component",
    "ComponentBounds",
    "ComponentRegistry",
    "ComponentReport",
    "Constant",
    "Contradiction",
    "Contributor",
    "Expression",
    "Grant",
    "Group",
    "GroupStatistics",
    "Maximum",
    "Minimum",
    "Overcommitment",
    "Product",
    "Report",
    "Sampled",
    "Sampling",
    "Setting",
    "SizeOf",
    "Sum",
    "TrackerReport",
    "VerifiedBounds",
    "allocations",
    "detached",
    "group",
    "structure_size",
]
