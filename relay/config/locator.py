"""Where each key of a TOML document stands: a scanner that knows the grammar, not the values.

tomli reports no positions, so the text that it accepted is walked once more. Paths are tuples of keys
and list indices: ("expose", 0, "server"). Only text that tomli accepts may be scanned.
"""

import tomli

KeyPath = tuple[str | int, ...]

_BARE_END = frozenset(" \t.=]\r\n")
_SPACE = frozenset(" \t\r\n")
_SCALAR_END = frozenset(",]}#\r\n")


def locate(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every table, key and list item in a valid TOML document."""
    return _Scanner(text).document()


def nearest(lines: dict[KeyPath, int], path: KeyPath) -> int | None:
    """Return the line of a path, or of the innermost thing around it that the document has."""
    for length in range(len(path), 0, -1):
        line = lines.get(path[:length])
        if line is not None:
            return line
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.line = 1
        self.counted = 0
        self.lines: dict[KeyPath, int] = {}
        #: How many elements each [[array]] has so far.
        self.arrays: dict[KeyPath, int] = {}

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip():
            if self.text.startswith("[[", self.at):
                table = self._array_header()
            elif self.text[self.at] == "[":
                line = self._line()
                self.at += 1
                table = self._place(self._key(), line)
                self.at += 1
            else:
                self._assignment(table)
        return self.lines

    def _array_header(self) -> KeyPath:
        line = self._line()
        self.at += 2
        *outer, last = self._key()
        self.at += 2
        path = (*self._place(outer, line), last)
        index = self.arrays.get(path, 0)
        self.arrays[path] = index + 1
        self.lines.setdefault(path, line)
        self.lines[(*path, index)] = line
        return (*path, index)

    def _place(self, keys: list[str], line: int, start: KeyPath = ()) -> KeyPath:
        # A name of an array of tables means its last element so far.
        path = start
        for key in keys:
            path = (*path, key)
            self.lines.setdefault(path, line)
            if path in self.arrays:
                path = (*path, self.arrays[path] - 1)
        return path

    def _assignment(self, table: KeyPath) -> None:
        line = self._line()
        keys = self._key()
        path = self._place(keys, line, table)
        self.at += 1  # "="
        self._value(path)

    def _key(self) -> list[str]:
        keys = []
        while True:
            self._blanks()
            start = self.at
            if self.text[self.at] in "\"'":
                self._string()
                raw = self.text[start : self.at]
                keys.append(str(tomli.loads(f"k = {raw}")["k"]))
            else:
                while self.text[self.at] not in _BARE_END:
                    self.at += 1
                keys.append(self.text[start : self.at])
            self._blanks()
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        self._skip()
        first = self.text[self.at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._list(path)
        elif first == "{":
            self._inline_table(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in _SCALAR_END:
                self.at += 1

    def _list(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while self._skip() and self.text[self.at] != "]":
            self.lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1
            self._skip()
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while self._skip() and self.text[self.at] != "}":
            self._assignment(path)
            self._skip()
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def _string(self) -> None:
        quote = self.text[self.at]
        triple = self.text.startswith(quote * 3, self.at)
        end = quote * 3 if triple else quote
        self.at += len(end)
        while not self.text.startswith(end, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += len(end)
        # One or two quotes may stand directly before the closing three.
        while triple and self.text.startswith(quote, self.at):
            self.at += 1

    def _blanks(self) -> None:
        while self.text[self.at] in " \t":
            self.at += 1

    def _skip(self) -> bool:
        """Pass white space and comments; return whether anything is left."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at] in _SPACE:
                self.at += 1
            else:
                return True
        return False

    def _line(self) -> int:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line
