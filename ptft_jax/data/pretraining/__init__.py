"""A corpus → rows: segments and pairs → order and rows (examples) → packing → masking.

examples joins them; measure tells what the rows are like.
"""
