"""Operations with compiled forward and backward passes that support all transformations of JAX and sharded arrays."""
