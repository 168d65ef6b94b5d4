"""Commands about corpora: prepare, check, inspect, stats; examples serves the last two."""
