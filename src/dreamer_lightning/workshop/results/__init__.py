"""What runs achieved: learning curves beside published ones, and statistics over seeds."""
