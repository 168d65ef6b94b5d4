"""Scores of predictions, on the host, equal to the official scripts'.

metrics    of classes, scores and rankings;  entities  of tags;  squad  of answers
"""
