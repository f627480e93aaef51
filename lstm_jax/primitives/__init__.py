"""Operations with custom forward and backward passes, such as compiled code, that support all transformations of JAX and sharded arrays."""
