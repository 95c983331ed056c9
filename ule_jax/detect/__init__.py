"""Search for shortcuts before a network is trained on the data in earnest; no group labels are used.

properties.py measures images, chance.py predicts the label from a property and permutes labels, students.py trains
small networks, suspects.py collects rules that may be a shortcut, check.py compares two networks on the images that
contradict a rule, verdict.py decides, wording.py has the words, find.py does all of it. For the verb: reading.py reads
examples, page.py and page.html draw.
"""
