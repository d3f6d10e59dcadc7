"""Checks the packed chunks of a dataset: HDF5 2.0 reads past the end of one that is shorter when unpacked."""

import math
import zlib

import h5py
from h5py import h5z

UNPACKED_HERE = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}
CHECKSUM_BYTES = 4


def wrong_with(found: h5py.Dataset) -> str:
    """Return what is wrong with the chunks; '' if each has the bytes that its dataset needs."""
    layout = found.id.get_create_plist()
    filters = [layout.get_filter(number)[0] for number in range(layout.get_nfilters())]
    if not filters or found.chunks is None:
        return ""
    if set(filters) - UNPACKED_HERE:
        return "is packed in a way that is not read here (h5repack -f GZIP=4 packs it so that it is)"
    stored = found.id.get_storage_size()
    needed = math.prod(found.chunks) * found.dtype.itemsize
    for number in range(found.id.get_num_chunks()):
        where = found.id.get_chunk_info(number)
        if where.size > stored:
            return "has a chunk that is larger than all of them"
        mask, data = found.id.read_direct_chunk(where.chunk_offset)
        applied = [each for place, each in enumerate(filters) if not mask >> place & 1]
        if unpacked_bytes(data, applied, needed) != needed:
            return "has a chunk that does not unpack to its rows"
    return ""


def unpacked_bytes(data: bytes, applied: list[int], needed: int) -> int:
    """Return how many bytes a chunk has without its filters, or any number above `needed` where they are
    more; -1 where it cannot be unpacked."""
    for each in reversed(applied):
        if each == h5z.FILTER_FLETCHER32:
            data = data[:-CHECKSUM_BYTES]
        elif each == h5z.FILTER_DEFLATE:
            try:
                data = zlib.decompressobj().decompress(data, needed + CHECKSUM_BYTES + 1)
            except zlib.error:
                return -1
    return len(data)
