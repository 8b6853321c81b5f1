"""Processes that load a model and generate when they are asked.

Each file but this one may be a script of another interpreter than ours, which has none of our
packages: they import the standard library, each other by file name, and their own library.
"""
