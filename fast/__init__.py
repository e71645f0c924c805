"""The same mathematics laid out for a machine: kernels, weights turned for a CPU, rows shared out to cores.

Everything here has a plain form that a student reads in the scripts, and a test that says they are equal. Imports no script.
"""
