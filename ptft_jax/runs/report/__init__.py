"""The page of a fine-tuned run, RUN/report.html: what its scores are made of.

page             puts the parts together and writes the file
html, chart      elements that escape what is put in them; charts as SVG
measures         intervals, calibration, confusion and thresholds, in NumPy
parts, slices    what several kinds show: errors, lengths, calibration, the slices that do worst
style            the page's CSS
kinds            what a kind of task shows
"""
