"""What runs achieved: learning curves beside published ones, statistics over seeds, and what is wrong with a run."""
