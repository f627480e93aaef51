"""Operations with compiled passes, for every transformation of JAX and for devices of a mesh."""
