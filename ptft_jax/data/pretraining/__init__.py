"""A corpus → rows: formats (segments, pairs) → order → packing → rows → masking.

examples joins them; measure tells what the rows are like.
"""
