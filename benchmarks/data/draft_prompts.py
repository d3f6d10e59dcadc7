"""python -m benchmarks.data.draft_prompts > prompts.txt:
a thousand questions as people ask them, to make a draft model from (fit-draft).

None of those that drafts.py measures with.
"""

from benchmarks.arguments import parser

FORMS = [
    "What is {}?",
    "Why do people care about {}?",
    "Explain to a beginner how {} works.",
    "Tell me a short story about {}.",
    "What should I know before I learn about {}?",
    "Give me five facts about {}.",
    "Write a short poem about {}.",
    "How has {} changed in the last hundred years?",
    "What are the advantages and disadvantages of {}?",
    "Write an email to a friend about {}.",
    "How can I save money with {}?",
    "What is the history of {}?",
    "Make a plan for a day with {}.",
    "What tools do I need for {}?",
    "Describe {} in three sentences.",
    "How would you teach {} at school?",
]
TOPICS = [
    "bread", "the moon", "a bicycle", "gardening", "the telephone", "rain", "football", "a library",
    "the ocean", "cheese",
    "the railway", "a dog", "music", "winter", "a computer", "photography", "the heart", "volcanoes",
    "coffee", "money",
    "a market", "the desert", "chess", "a bridge", "the internet", "bees", "painting", "a hospital",
    "the wind", "cooking",
    "electricity", "a farm", "sleep", "the stars", "a battery", "swimming", "glass", "history", "a river",
    "the cinema",
    "paper", "an airport", "the weather", "a clock", "language", "friendship", "a forest", "steel",
    "the human brain", "salt",
    "a birthday", "solar energy", "the city of Rome", "a map", "fishing", "the common cold", "mathematics",
    "a kitchen",
    "dinosaurs", "a robot", "running", "the law", "tea", "a horse",
]  # fmt: skip


def main() -> None:
    parser(__doc__).parse_args()
    for topic in TOPICS:
        for form in FORMS:
            print(form.format(topic))


if __name__ == "__main__":
    main()
