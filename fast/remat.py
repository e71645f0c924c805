"""What the backward pass finds of a layer's forward pass, and what it computes again.

    remat       it finds                     bytes a token and layer, bf16      and so computes again
    none        all that it needs            about 64 D                         nothing
    products    x, qkv_proj's and fc_in's    (1 + 3 + 4) x 2 D = 16 D           attention, elementwise
    layer       x, its input                 2 D                                all of the layer

Of a matrix product a backward pass needs the factors alone, so what out_proj and fc_out make is not
kept. Products are 9 tenths of the time, so "products" costs 2 to 4 % more of it, "layer" a third.
"""
import jax
from jax.ad_checkpoint import checkpoint_name

KEEP = dict(products=jax.checkpoint_policies.save_only_these_names("product"), layer=None)
REMAT = ("none", *KEEP)


def mark_product(x):
    """x, marked as a product with a weight: "products" keeps it."""
    return checkpoint_name(x, "product")


def recompute(layer, remat: str, written_out: bool):
    """layer(x, w), of which the backward pass finds what `remat` says.

    written_out: no loop runs over the layers, and XLA must be kept from making one run of the two.
    """
    if remat == "none":
        return layer
    return jax.checkpoint(layer, policy=KEEP[remat], prevent_cse=written_out)
