"""Measures what an update, acting, replay, environments and the loop cost, beside what arithmetic alone would."""
