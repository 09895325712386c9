"""Measures what an update, acting, replay, environments and the loop cost, and compares that with bare arithmetic."""
