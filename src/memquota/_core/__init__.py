"""The books: every change of who holds how many bytes happens in this package.

Rules of these files:

1. Nothing here reads a clock, takes a lock, starts I/O, logs, holds a weak reference or calls user code. Times
   and answers come in as arguments; what is to be done goes out as values (steps, events, ended nodes).
2. Everything that can be refused is refused first; after a `# Commit.` there are only moves of the books.
3. A call may be torn at any point by an exception from outside (Ctrl-C, MemoryError). Facts that cannot be derived
   (`Holding.booked`, `Holding.cap`, `CreditLine`, `AccountNode.parents`, `.ended`) are therefore changed in straight
   lines without a call between them; everything else is derived from them, and `checks.rebuild` derives it anew.
4. An invariant has a number, stands at its field, and is checked under that number in `checks.check_books`.
"""
