"""What an update does to parameters.

rules         which are trained, at which rate and decay
optimizer     clipping, moments, decay, schedule
rank_budget   which columns of AdaLoRA's matrices stay
mixout, elastic   what keeps parameters near where they were
"""
