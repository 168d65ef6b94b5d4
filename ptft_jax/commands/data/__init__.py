"""Commands about corpora: prepare, check, inspect, stats."""
