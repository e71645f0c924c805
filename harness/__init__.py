"""Running what a model wrote, sample files, and the manners of the command line: what the paper does not speak of."""
