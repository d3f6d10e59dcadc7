"""Every decoder family that the installed transformers can make: cut as the whole, or refused by name."""

import families
import pytest
from places import ROOT

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "families.md"
# Families that people run: each must stay served.
SERVED = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo2",
    "smollm3", "gpt2", "gpt_neox",
    "gptj", "falcon", "mpt", "starcoder2", "granite", "cohere", "cohere2", "minicpm3", "stablelm", "opt",
    "gpt_bigcode", "codegen",
)  # fmt: skip
RARE = ("cohere2", "stablelm", "opt", "gpt_bigcode", "codegen")  # served, and left out by CI
MIXTURES = (
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v3",
    "gpt_oss",
    "llama4_text",
    "olmoe",
    "phimoe",
    "granitemoe",
    "glm4_moe",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def of_ci(variant) -> bool:
    """Whether it is tried by CI too: what people run, and one of each reason for a refusal; the rest with
    JARVIS_TEST_SLOW=1."""
    wanted = {*SERVED, *MIXTURES, "bert", "bart", "bamba", "blt", "t5gemma"} - {*RARE}
    return variant.kind in wanted


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(
            each,
            id=f"{each.kind} {each.note}".strip(),
            marks=[] if of_ci(each) else [pytest.mark.very_slow],
        )
        for each in families.all_families()
    ],
)
def test_a_family_is_cut_as_the_whole_or_refused_by_name(variant, cache):
    verdict = families.judged(variant, cache)
    assert verdict.word in ("same", "refused"), verdict
    if variant.kind in SERVED and not variant.note:
        assert verdict.word == "same", verdict
    if variant.kind in MIXTURES:
        assert "mixture of experts" in verdict.why or variant.note, verdict
    if verdict.word == "refused":
        assert variant.kind in verdict.why, verdict


def test_the_page_lists_every_family():
    listed = [
        line.split(" | ")[0].strip("| ") for line in PAGE.read_text().splitlines() if line.startswith("| ")
    ]
    assert set(listed) - {"family"} >= {each.kind for each in families.VARIANTS} | set(SERVED) | set(MIXTURES)
