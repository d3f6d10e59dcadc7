"""python -m jarvis_mpi.gguf FILE FOLDER: a GGUF file, dequantised by transformers into bfloat16 safetensors."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging


def main(file: str, folder: str) -> None:
    logging.disable_progress_bar()
    parent, name = Path(file).parent, Path(file).name
    # Without GgufConfig the weights stay packed, and save_pretrained fails (transformers 5.23).
    dense = AutoModelForCausalLM.from_pretrained(
        parent, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    AutoTokenizer.from_pretrained(parent, gguf_file=name).save_pretrained(folder)
    dense.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
