"""The Huffman code of HPACK (RFC 7541, section 5.2 and Appendix B).

The code is canonical: symbols ordered by length of their code, then by value, have consecutive codes. So the lengths
say all, and a symbol is found by comparing the next 32 bits with the first code of the next length.
"""

from __future__ import annotations

from _bisect import bisect_right

EOS = 256

# Symbols by length of code, in order of value.
_SYMBOLS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (5, (48, 49, 50, 97, 99, 101, 105, 111, 115, 116)),
    (6, (32, 37, *range(45, 48), *range(51, 58), 61, 65, 95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117)),
    (7, (58, *range(66, 88), 89, 106, 107, 113, 118, 119, 120, 121, 122)),
    (8, (38, 42, 44, 59, 88, 90)),
    (10, (33, 34, 40, 41, 63)),
    (11, (39, 43, 124)),
    (12, (35, 62)),
    (13, (0, 36, 64, 91, 93, 126)),
    (14, (94, 125)),
    (15, (60, 96, 123)),
    (19, (92, 195, 208)),
    (20, (128, 130, 131, 162, 184, 194, 224, 226)),
    (21, (153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230)),
    (
        22,
        (129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181)
        + (185, 186, 187, 189, 190, 196, 198, 228, 232, 233),
    ),
    (
        23,
        (1, 135, *range(137, 142), 143, 147, *range(149, 153), 155, 157, 158, 165, 166, 168, 174, 175, 180, 182, 183)
        + (188, 191, 197, 231, 239),
    ),
    (24, (9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237)),
    (25, (199, 207, 234, 235)),
    (26, (192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255)),
    (27, (203, 204, 211, 212, 214, 221, 222, 223, 241, *range(244, 249), *range(250, 255))),
    (28, (*range(2, 9), 11, 12, *range(14, 22), *range(23, 32), 127, 220, 249)),
    (30, (10, 13, 22, EOS)),
)

_ORDER = tuple(symbol for _, symbols in _SYMBOLS for symbol in symbols)
_LENGTHS = tuple(length for length, _ in _SYMBOLS)
# For each length: the first 32-bit word that belongs to a longer code, and what maps a code to its place in _ORDER.
_LIMITS: list[int] = []
_BASES: list[int] = []


def _canonical() -> None:
    code = length = place = 0
    for next_length, symbols in _SYMBOLS:
        code <<= next_length - length
        length = next_length
        _BASES.append(place - code)
        code += len(symbols)
        place += len(symbols)
        _LIMITS.append(code << (32 - length))


_canonical()
_CODES: list[tuple[int, int]] = []


def encode(text: bytes) -> bytes:
    """``text`` in Huffman code, padded with ones. (Our own encoder sends plain strings; tests and peers need this.)"""
    if not _CODES:
        by_symbol = {}
        place = 0
        for base, (length, symbols) in zip(_BASES, _SYMBOLS, strict=True):
            for symbol in symbols:
                by_symbol[symbol] = (place - base, length)
                place += 1
        _CODES.extend(by_symbol[symbol] for symbol in range(257))
    value = size = 0
    for byte in text:
        code, length = _CODES[byte]
        value = value << length | code
        size += length
    padding = -size % 8
    return (value << padding | (1 << padding) - 1).to_bytes((size + padding) // 8, "big")


def decode(data: bytes) -> bytes:
    """The text of ``data``; ValueError for EOS in it or padding that is too long or not all ones."""
    out = bytearray()
    held = bits = 0  # ``bits`` bits of input, not yet decoded, in ``held``
    for start in range(0, len(data), 32):  # bounded integers keep this linear
        chunk = data[start : start + 32]
        held = held << len(chunk) * 8 | int.from_bytes(chunk, "big")
        bits += len(chunk) * 8
        while bits >= 32:
            word = held >> (bits - 32) & 0xFFFFFFFF
            index = bisect_right(_LIMITS, word)
            length = _LENGTHS[index]
            out.append(_symbol((word >> (32 - length)) + _BASES[index]))
            bits -= length
        held &= (1 << bits) - 1
    while bits:
        word = (held << (32 - bits) | (1 << (32 - bits)) - 1) & 0xFFFFFFFF
        index = bisect_right(_LIMITS, word)
        length = _LENGTHS[index] if index < len(_LENGTHS) else 32
        if length > bits:
            break
        out.append(_symbol((word >> (32 - length)) + _BASES[index]))
        bits -= length
        held &= (1 << bits) - 1
    if bits > 7 or held != (1 << bits) - 1:
        raise ValueError("bad padding of a Huffman string")
    return bytes(out)


def _symbol(place: int) -> int:
    symbol = _ORDER[place]
    if symbol == EOS:
        raise ValueError("EOS in a Huffman string")
    return symbol
