"""A family's model: found, mapped, cut, run, sampled. Only this wing and study import transformers.

`checkpoint` finds a model's folder, `stage` runs a block of its layers, `head` its embedding and output
layer, `tokenizer` and `sampler` turn that into text. `trial` compares a cut of a small twin with the whole
before a weight is read.
"""
