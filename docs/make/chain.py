"""The picture of the chain: python docs/make/chain.py > docs/chain.svg (SmolLM2's 30 layers over nine ranks,
as by default)."""

BLOCKS = ("1-4", "5-8", "9-12", "13-16", "17-19", "20-22", "23-25", "26-28")
LEFT, STEP, WIDE, TOP = 262, 88, 70, 84  # of the first worker, from one to the next, of a box: pixels
MIDDLE = LEFT + (STEP * 7 + WIDE) / 2
ARROW = '<path d="{way}" stroke="#333" stroke-width="1.5" fill="none" marker-end="url(#arrow)"/>'


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" {more}>{words}</text>'


def row(y: int, words: str, more: str) -> str:
    """A box inside the end user's."""
    return f'<rect x="32" y="{y}" width="176" height="22" rx="4" {more}/>' + text(120, y + 16, words)


def worker(number: int, block: str, copied: str) -> str:
    """A rank with its block, and below it the copy of the next one's."""
    x, centre = LEFT + STEP * (number - 1), LEFT + STEP * (number - 1) + WIDE / 2
    lines = [
        f'<rect x="{x}" y="{TOP}" width="{WIDE}" height="62" rx="8" fill="#e6f5ef" stroke="#009e73" '
        'stroke-width="2"/>',
        text(centre, TOP + 22, f"rank {number}", 'font-weight="bold"'),
        text(centre, TOP + 38, "layers") + text(centre, TOP + 54, block),
    ]
    if copied:
        lines += [
            f'<rect x="{x + 3}" y="{TOP + 70}" width="{WIDE - 6}" height="36" rx="6" {COPY}/>',
            text(centre, TOP + 85, "copy of", 'font-size="11"'),
            text(centre, TOP + 99, copied, 'font-size="11"'),
        ]
    if number > 1:
        lines.append(ARROW.format(way=f"M{x - 18} {TOP + 31} H{x - 2}"))
    return "\n".join(lines)


COPY = 'fill="#ffffff" stroke="#009e73" stroke-dasharray="4 3"'
OWN, LAYER = 'fill="#ffffff" stroke="#777"', 'fill="#fde9c9" stroke="#777"'
COPIES = "a copy is used when the node that holds the layers is lost: here it costs no memory until then"
LAST = LEFT + STEP * 7 + WIDE / 2

print(f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 300"
 font-family="Helvetica, Arial, sans-serif" font-size="13">
<title>A token's way through nine MPI ranks, and who holds a copy of whose layers</title>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="#333"/></marker></defs>
<rect width="980" height="300" fill="#ffffff"/>
<rect x="20" y="40" width="200" height="232" rx="8" fill="#e8f1fb" stroke="#0072b2" stroke-width="2"/>
{text(120, 62, "rank 0: end user", 'font-weight="bold"')}
{row(74, "tokenizer, embedding", OWN)}
{row(104, "layer 0", LAYER)}
{row(154, "copy of 1-4", COPY)}
{row(206, "layer 29", LAYER)}
{row(236, "output layer, choice", OWN)}
{chr(10).join(worker(n + 1, block, (*BLOCKS, "")[n + 1]) for n, block in enumerate(BLOCKS))}
{ARROW.format(way=f"M208 115 H{LEFT - 2}")}
{ARROW.format(way=f"M{LAST:g} {TOP + 62} V217 H212")}
{text(MIDDLE, 68, "the activation of one token: 1.3 kB, with the hops still ahead of it")}
{text(MIDDLE, 238, "once round for every token; key/value caches stay where the layers are")}
{text(MIDDLE, 256, COPIES, 'fill="#00704f"')}
</svg>""")
