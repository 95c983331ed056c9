"""Search for shortcuts before a network is trained on the data in earnest; no group labels are used.

properties.py measures images, chance.py predicts the label from one property and permutes labels, students.py trains small
networks, suspects.py collects the rules that may be a shortcut, check.py compares two networks on the images that break a
rule, find.py does all in order, page.py and page.html draw it, images.py reads a data set.
"""
