"""How good a segmentation is: overlap, surfaces, lesion detection, tumor burden, and reports of them.

`lits.evaluate_case` scores one pair of label volumes as the Liver Tumor Segmentation challenge does, `lits.summarize`
a set of them; `original` holds the three figures of the original U-Net. Nothing here knows of files except `folders`
and `evaluation`.
"""
