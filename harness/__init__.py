"""Running what a model wrote, sample files, and the manners of the command line: what the paper does not speak of."""
import harness.cli  # noqa: F401 (first of all: from there on Ctrl-C is quiet)
