"""Key/value caches that grow in place: one more token copies one more row, not the whole cache.

transformers' own dynamic layers concatenate, which moves every cached byte for every token. These
layers have the same shapes and give the same results.
"""

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

FIRST_ROWS = 256  # a buffer's first size; it doubles from there
SPARE_ROWS = 64  # behind a window, they stay in the buffer, so that as many of its last rows can be cropped


def new_cache(config) -> DynamicCache:
    """Return an empty cache for the layers of `config`."""
    cache = DynamicCache(config=config)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = GrowingLayer()
        elif type(layer) is DynamicSlidingWindowLayer:
            cache.layers[index] = GrowingWindowLayer(layer.sliding_window)
    return cache


def cropped(cache: DynamicCache, end: int) -> bool:
    """Forget the positions from `end` on, in every layer or in none; return whether it was done."""
    layers = [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]
    able = len(layers) == len(cache.layers) and all(layer.can_crop(end) for layer in layers)
    for layer in layers if able else ():
        layer.crop(end)
    return able


class GrowingLayer(DynamicLayer):
    """`keys` and `values` [batch, heads, rows, head], as the last update gave them, are views of larger
    buffers."""

    begin = end = 0  # the rows of the buffers that count
    capacity = 0  # rows
    head_bytes = 0  # between heads

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        rows = key_states.shape[-2]
        first = self.reserve(rows, (key_states, value_states))
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.end - rows : self.end] = states
        self.keys, self.values = (buffer[:, :, first : self.end] for buffer in self.buffers)
        return self.keys, self.values

    def reserve(self, rows: int, like: tuple[Tensor, Tensor]) -> int:
        """Reserve `rows` further rows, the last ones before `end`, for the caller to write; return the first
        row of `buffers` that they see."""
        if self.end + rows > self.capacity:
            self.make_room(rows, like)
        self.end += rows
        return self.begin

    def get_seq_length(self) -> int:
        return self.end - self.begin

    def make_room(self, rows: int, like: tuple[Tensor, Tensor]) -> None:
        """Make larger buffers that begin with the rows that count and a few before them."""
        if not self.is_initialized:
            self.lazy_initialization(*like)
            self.buffers = [states[:, :, :0] for states in like]
        spare = min(self.begin, SPARE_ROWS)
        first, copied = self.begin - spare, self.end - self.begin + spare
        capacity = max(FIRST_ROWS, 2 * (copied + rows))
        grown = [states.new_empty((*states.shape[:2], capacity, states.shape[3])) for states in like]
        for new, old in zip(grown, self.buffers, strict=True):
            new[:, :, :copied] = old[:, :, first : self.end]
        self.buffers, self.begin, self.end, self.capacity = grown, spare, copied, capacity
        self.keys, self.values = (buffer[:, :, :0] for buffer in grown)  # no view of what was before
        self.head_bytes = grown[0].stride(1) * grown[0].itemsize

    def can_crop(self, end: int) -> bool:
        return True

    def crop(self, end: int) -> None:
        """Keep the positions before `end`."""
        self.end -= self.get_seq_length() - end
        self.keys, self.values = (buffer[:, :, self.begin : self.end] for buffer in self.buffers)


class GrowingWindowLayer(GrowingLayer, DynamicSlidingWindowLayer):
    """A GrowingLayer for a sliding window: an update sees the whole window, then its oldest rows no longer
    count."""

    def __init__(self, sliding_window: int):
        DynamicSlidingWindowLayer.__init__(self, sliding_window)

    def reserve(self, rows: int, like: tuple[Tensor, Tensor]) -> int:
        self.cumulative_length += rows
        first = super().reserve(rows, like)
        self.begin = max(first, self.end - (self.sliding_window - 1))
        return first

    def rows_of(self, positions: int) -> int:
        """Return how many of `positions` rows count."""
        return min(positions, self.sliding_window - 1)

    def can_crop(self, end: int) -> bool:
        return self.end - (self.cumulative_length - end) >= self.rows_of(end)

    def crop(self, end: int) -> None:
        super().crop(end)
        self.cumulative_length = end
        self.begin = self.end - self.rows_of(end)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        DynamicLayer.lazy_initialization(self, key_states, value_states)

    get_seq_length = DynamicSlidingWindowLayer.get_seq_length
    get_mask_sizes = DynamicSlidingWindowLayer.get_mask_sizes
