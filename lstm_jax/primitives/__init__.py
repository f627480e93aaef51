"""Operations whose forward and backward passes are custom code, for example compiled
C++ code.

The operations support all transformations of JAX, and sharded arrays.
"""
