"""A family's model: found, mapped, cut, run, sampled. Only here, and in study, is transformers named.

`checkpoint` finds a model's folder, `stage` runs a block of its layers, `head` its embedding and output layer, `tokenizer` and `sampler`
make text of that. `trial` compares a cut of a small twin with the whole before a weight is read.
"""
