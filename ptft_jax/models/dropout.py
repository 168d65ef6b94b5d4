"""Dropout whose masks a run can be repeated with: the version of its randomness.

The masks are a function of (row key, site, position) alone.
"""

# Names how dropout bits come about: a hash of (row key, site, position). Any change of that
# function needs another name, since a run that goes on would drop other activations than before.
RANDOMNESS = "hash-1"
