"""Machine code for this processor, by LLVM; knows no model.

`builder` writes a function, `jit` compiles it and keeps it. Others may import the functions that are decorated with `jit.kernel`, what
tells how large their scratch memory is, and `autotune`.
"""
