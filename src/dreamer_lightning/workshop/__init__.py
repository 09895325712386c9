"""What proves and measures Dreamer, apart from Dreamer: parity, bench, results, and the commands that use them."""
