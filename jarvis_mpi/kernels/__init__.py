"""Machine code for this processor, by LLVM; knows no model.

`builder` writes a function, `jit` compiles and caches it. Others may import the functions decorated with
`jit.kernel`, those that return the size of their scratch memory, and `autotune`.
"""
