"""What was declared and what is used, by component.

A component declares what it needs and what it will not exceed (`Bounds`, in a `ComponentRegistry`); that is verified
against what the process was given (`Grant`), and compared with what it claims, allocates and computes (`Report`).
"""
