"""How fast: tokens/s, hops, kernels, starts and links, each beside something else in the same session."""
