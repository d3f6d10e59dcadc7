"""Texts, prompts and questions for the other benchmarks and for docs/study.md and docs/patches.md."""
