"""Ways to damage a file that all kinds have in common."""

import random

#: Numbers that no reader expects, as text.
NUMBERS = ("nan", "inf", "-inf", "1e400", "9" * 400, "-1", "0", "1e-400", "0x10", "１２", "")
#: Text that no reader expects.
WORDS = ("\0", "\u202e\u200b", "é" * 50, "\x1b[2J", "x" * 5000, "../../../etc/passwd", "${x}", "'")


def damage(content: bytes, random_: random.Random) -> bytes:
    """Damage bytes in one of several ways: bits, cuts, zeros, doubled and moved parts."""
    if not content:
        return b"\0"
    data, size = bytearray(content), len(content)
    start = random_.randrange(size)
    end = min(size, start + random_.randrange(1, max(2, size // 4)))
    how = random_.randrange(8)
    if how == 0:
        for _ in range(random_.randrange(1, 9)):
            data[random_.randrange(size)] ^= 1 << random_.randrange(8)
    elif how == 1:
        del data[start:]
    elif how == 2:
        del data[start:end]
    elif how == 3:
        data[start:end] = bytes(end - start)
    elif how == 4:
        data[start:start] = data[start:end]
    elif how == 5:
        data[start:end] = random_.randbytes(end - start)
    elif how == 6:
        word = random_.choice(NUMBERS + WORDS).encode()
        data[start : start + len(word)] = word
    else:
        for _ in range(random_.randrange(1, 5)):
            data[random_.randrange(size)] = random_.choice((0, 255, 127, 128))
    return bytes(data)
