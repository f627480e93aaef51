"""Processes, interrupts, the console and the cache of compiled programs."""
