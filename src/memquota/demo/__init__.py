"""The demonstration: a real relay, real sockets, a real memory limit, and readers who never read."""
