"""The product with a weight, whose gradient is summed in float32."""
from functools import partial

import jax
import jax.numpy as jnp


def weight_product(x, w, dtype=None):
    """x (N, I) times w (I, O) -> (N, O), in x's dtype, or in float32 where dtype says so.

    w is multiplied in x's dtype. Where that has fewer bits, as in training with bfloat16, the
    gradient has a form of its own."""
    if x.dtype.itemsize < w.dtype.itemsize:
        return narrow_product(x, w, dtype)
    return plain_product(x, w, dtype)


def plain_product(x, w, dtype=None):
    """The reference, and what a float32 x takes."""
    return jnp.dot(x, w.astype(x.dtype), preferred_element_type=dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def narrow_product(x, w, dtype):
    """plain_product for x in bfloat16 and w in float32, with a backward pass of its own, because
    JAX's has two faults:

    * a weight's gradient, a sum over all tokens, comes out of the plain form rounded to bfloat16
      and is turned into float32 afterwards: a pass over memory, and 16 bits lost;
    * the float32 logits have a float32 gradient, so JAX makes the head's two products in float32
      (on a GPU in TF32), at half the speed. bfloat16 is what the other layers' gradients have.
    """
    return narrow_forward(x, w, dtype)[0]


def narrow_forward(x, w, dtype):
    w = w.astype(x.dtype)
    return plain_product(x, w, dtype), (x, w)


def narrow_backward(dtype, kept, grad):
    x, w = kept
    grad = grad.astype(x.dtype)                                          # (N, O)
    x_grad = jnp.einsum("no,io->ni", grad, w)
    return x_grad, jnp.einsum("ni,no->io", x, grad, preferred_element_type=jnp.float32)


narrow_product.defvjp(narrow_forward, narrow_backward)
