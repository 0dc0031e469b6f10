"""A large JSON file, read value by value through a window: each value is known, and where it lies, and none has to be kept."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NoReturn

CHUNK = 2**22  # bytes read at a time
LARGEST_VALUE = 2**26  # bytes of one value
_SPACE = re.compile(r"[ \t\n\r]*")


class Window:
    """The part of a file that is being read, one character a byte, so that a place in the text is a place in the file."""

    def __init__(self, handle: BinaryIO, bar: Callable[[int], object] | None) -> None:
        self.handle, self.bar, self.digest = handle, bar, hashlib.sha256()
        self.text, self.at, self.start = "", 0, 0  # `start`: offset in the file of the text's first character
        self.decoder = json.JSONDecoder(parse_constant=_refuse_constant)

    def more(self) -> bool:
        """Drop what has been used and read on; False at the end of the file."""
        # At least as much again, so that a long value is not looked at too often.
        data = self.handle.read(max(CHUNK, len(self.text) - self.at))
        self.digest.update(data)
        self.text, self.start, self.at = self.text[self.at :] + data.decode("latin-1"), self.start + self.at, 0
        if self.bar is not None and data:
            self.bar(1)
        return bool(data)

    def next(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def expect(self, allowed: str) -> str:
        """Take the next character, which must be one of `allowed`."""
        found = self.next()
        if not found:
            raise ValueError("the file ends too early, it may be cut short")
        if found not in allowed:
            raise ValueError(f"{found!r} at byte {self.start + self.at}, expected {' or '.join(allowed)}")
        self.at += 1
        return found

    def value(self) -> tuple[Any, int, int]:
        """Take the next value; also where it begins in the file, and how many bytes it has."""
        self.next()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                end, reason = len(self.text), f"not valid JSON ({error.msg} at byte {self.start + error.pos})"
            else:
                reason = f"more than {LARGEST_VALUE >> 20} MiB in one value at byte {self.start + self.at}"
            if end < len(self.text):  # a number at the very end could go on
                break
            if len(self.text) - self.at > LARGEST_VALUE:
                raise ValueError(reason)
            if not self.more():
                raise ValueError(f"{reason}; the file may be cut short")
        if not self.text.isascii():
            value = json.loads(self.text[self.at : end].encode("latin-1"))
        offset, length = self.start + self.at, end - self.at
        self.at = end
        return value, offset, length

    def items(self) -> Iterator[tuple[Any, int, int]]:
        """The items of the list that comes next."""
        self.expect("[")
        if self.next() == "]":
            self.at += 1
            return
        yield self.value()
        while self.expect(",]") == ",":
            yield self.value()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} where a number belongs")
