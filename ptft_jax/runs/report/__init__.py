"""The page of a fine-tuned run, RUN/report.html: what its scores are made of.

page             puts the parts together and writes the file
html, chart      elements that escape what is put in them; charts as SVG
measures         intervals, calibration, confusion and thresholds, in NumPy
parts            what several kinds show: slices, errors, lengths, calibration
classes          parts of a run on classes, one for each text
labels           … on several labels of a text
scores           … on numbers
tagging          … on tags of words
span             … on questions and answers
choice           … on multiple choice
"""
