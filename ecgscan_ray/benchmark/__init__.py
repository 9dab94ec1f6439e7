"""The benchmark: what an encoder of pages has learned, on the tasks of the field, compared with controls on the same pages.

Tasks are data, features are computed once and kept as files, and every comparison is paired. No Ray here.
"""
