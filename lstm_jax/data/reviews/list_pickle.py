"""Safe reader of one kind of pickle: an object array of lists of integers, as `np.savez` writes it.

A pickle can make Python's unpickler build any object and call any function, and can make NumPy treat bytes as pointers. This reader builds
only numbers, texts, bytes, tuples, constants and its own stand-ins for lists and arrays. It compares the names, types and states in the
pickle with the expected ones, and calls nothing that the pickle names. The result is a list of int32 arrays.
"""

import io
import pickletools
from array import array
from typing import Any

import numpy as np

MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
RECONSTRUCT = frozenset(f"{module} _reconstruct" for module in MODULES)
KNOWN = RECONSTRUCT | {"numpy ndarray", "numpy dtype", "_codecs encode"}
DTYPES = (("O8", False, True), ("O4", False, True), ("O", False, True))
STATE = (3, "|", None, None, None, -1, -1, 63)
"""Pickled state of NumPy's object dtype. The last value, 63, holds the flags of the dtype. Other flags could make NumPy read bytes as
pointers."""
ROWS, IDS, STEPS = 1 << 20, 1 << 26, 1 << 23
"""Largest numbers of rows (lists), integers and instructions that a pickle may have. They are about 40, 10 and 80 times the numbers in the
pickles of Keras' file imdb.npz."""

_NUMBERS = ("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES")
_PUSHED = frozenset((*_NUMBERS, *_TEXTS))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_BININT1, _BININT2, _BININT, _APPENDS = b"KMJe"


class _Name(str):
    """Name of a function or class that the pickle asks to import. The name is compared with the expected names and never imported."""


class _List:
    """List of integers, or list of such lists, that is built while a pickle is read."""

    def __init__(self) -> None:
        self.ids, self.rows = array("i"), []

    def extend(self, items: list[Any]) -> None:
        rows = all(type(item) is _List for item in items)
        if rows and not self.ids:
            self.rows += items
        elif not self.rows and all(type(item) is int for item in items):
            self.ids.extend(items)
        else:
            raise ValueError("a list of something else than integers, or of lists of them")


class _Array:
    """Stand-in for the NumPy array in a pickle, or for the dtype of that array, while the pickle is read.

    A pickle creates an object first, and sets its state later. The attribute `rows` is None until a valid state is set. After that, `rows`
    of a stand-in for an array is the list of the rows of the array, and `rows` of a stand-in for a dtype is ().

    Args:
        kind: what this object stands for: "array" or "dtype".
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.rows: Any = None


class _Machine:
    """Interpreter that carries out the instructions of one pickle on a stack of objects.

    The interpreter also stores the positions of the marks on the stack, and the memo, a dict of numbered objects that the pickle uses
    again. Most instructions have a method of their own. For example, `do_append` carries out the instruction APPEND.

    Args:
        content: the bytes of the pickle.
    """

    def __init__(self, content: bytes):
        self.content, self.file = content, io.BytesIO(content)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.lists = 0

    def run(self) -> Any:
        """Carry out the instructions of the pickle, and return the object that the pickle describes."""
        for _ in range(STEPS):
            code = self.file.read(1)
            opcode = _OPCODES.get(code.decode("latin-1"))
            if opcode is None:
                raise ValueError("the pickle ends in the middle" if not code else f"no pickle: byte 0x{code[0]:02x}")
            argument = opcode.arg.reader(self.file) if opcode.arg else None
            if opcode.name == "STOP":
                return self.pop()
            self.step(opcode.name, argument)
        raise ValueError(f"more than {STEPS:,} instructions")

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(self.pop_all(len(self.stack) - _TUPLES[name])))
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"do_{name.lower()}", None)
            if action is None:
                raise ValueError(f"the pickle holds {name}, an array of lists of integers needs nothing of the kind")
            action(argument)

    def pop(self) -> Any:
        if not self.stack or (self.marks and self.marks[-1] == len(self.stack)):
            raise ValueError("the pickle takes more than it put")
        return self.stack.pop()

    def pop_all(self, start: int) -> list[Any]:
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("the pickle takes more than it put")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("the pickle takes more than it put")
        return self.pop_all(self.marks.pop())

    def top(self, kind: type) -> Any:
        found = self.pop()
        if type(found) is not kind:
            raise ValueError(f"the pickle treats a {type(found).__name__} as a {kind.__name__.strip('_')}")
        self.stack.append(found)
        return found

    def do_mark(self, _: None) -> None:
        """Carry out the instruction MARK, which stores the current height of the stack.

        A later instruction takes all items above this height. To fill a list of integers, a pickle usually has MARK, then the integers,
        then APPENDS, which adds the integers to the list. In this case, this method does all three steps in one fast loop, and stores no
        height.
        """
        ids, end = _integers(self.content, self.file.tell())
        if ids is not None and self.stack and type(self.stack[-1]) is _List and not self.stack[-1].rows:
            self.stack[-1].ids.extend(ids)
            self.file.seek(end)
        else:
            self.marks.append(len(self.stack))

    def do_tuple(self, _: None) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def do_empty_list(self, _: None) -> None:
        self.lists += 1
        if self.lists > ROWS + 1:
            raise ValueError(f"more than {ROWS:,} rows")
        self.stack.append(_List())

    def do_list(self, _: None) -> None:
        items = self.pop_mark()
        self.do_empty_list(None)
        self.stack[-1].extend(items)

    def do_append(self, _: None) -> None:
        item = self.pop()
        self.top(_List).extend([item])

    def do_appends(self, _: None) -> None:
        items = self.pop_mark()
        self.top(_List).extend(items)

    def do_global(self, name: str) -> None:
        if name not in KNOWN:
            raise ValueError(f"the pickle asks for {name.replace(' ', '.')}, an array needs nothing of the kind")
        self.stack.append(_Name(name))

    def do_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.do_global(f"{module} {name}")

    def do_memoize(self, _: None) -> None:
        self.do_put(len(self.memo))

    def do_put(self, number: int) -> None:
        item = self.pop()
        self.stack.append(item)
        self.memo[number] = item

    def do_get(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError("the pickle takes what it never made")
        self.stack.append(self.memo[number])

    do_binput = do_long_binput = do_put
    do_binget = do_long_binget = do_get

    def do_reduce(self, _: None) -> None:
        arguments, name = self.pop(), self.pop()
        if name in RECONSTRUCT and arguments in (("numpy ndarray", (0,), b"b"), ("numpy ndarray", (0,), "b")):
            self.stack.append(_Array("array"))
        elif name == "numpy dtype" and arguments in DTYPES:
            self.stack.append(_Array("dtype"))
        elif name == "_codecs encode" and arguments == ("b", "latin1"):
            self.stack.append(b"b")
        else:
            raise ValueError(f"the pickle calls {name!r:.60} in a way that an array of lists does not need")

    def do_build(self, _: None) -> None:
        state = self.pop()
        made = self.top(_Array)
        if made.kind == "dtype":
            if state != STATE or made.rows is not None:
                raise ValueError(f"the pickle gives a dtype the state {state!r:.60}, that of objects is {STATE}")
            made.rows = ()
            return
        version, shape, dtype, fortran, rows = state
        whole = type(dtype) is _Array and dtype.kind == "dtype" and dtype.rows is not None and type(rows) is _List and not rows.ids
        if not whole or made.rows is not None or (version, fortran) != (1, False) or shape != (len(rows.rows),):
            raise ValueError("the pickle holds another array than one of lists")
        made.rows = rows.rows


def _integers(content: bytes, at: int) -> tuple[array | None, int]:
    """Read consecutive integers in a pickle, up to the instruction APPENDS, which adds them to a list.

    Args:
        content: the bytes of the pickle.
        at: offset of the first integer, in bytes.

    Returns:
        A pair (integers, end), where `end` is the offset of the first byte after APPENDS. If an instruction that stores no integer comes
        before APPENDS, or if there are no integers, `integers` is None and `end` has no meaning.
    """
    ids = array("i")
    append, size = ids.append, len(content)
    while at < size:
        code = content[at]
        if code == _BININT1 and at + 1 < size:
            append(content[at + 1])
            at += 2
        elif code == _BININT2 and at + 2 < size:
            append(content[at + 1] | content[at + 2] << 8)
            at += 3
        elif code == _BININT and at + 4 < size:
            append(int.from_bytes(content[at + 1 : at + 5], "little", signed=True))
            at += 5
        elif code == _APPENDS and ids:
            return ids, at + 1
        else:
            break
    return None, at


def read_lists(content: bytes) -> list[np.ndarray]:
    """Return the rows of a pickled object array of lists of integers. Each row is an int32 array (T,).

    Args:
        content: the bytes of the pickle.

    Raises:
        ValueError: if the pickle holds anything else. A damaged pickle can raise other exceptions too.
    """
    made = _Machine(content).run()
    if type(made) is not _Array or made.kind != "array" or made.rows is None:
        raise ValueError(f"the pickle holds a {type(made).__name__.strip('_')}, not an array")
    if any(row.rows for row in made.rows):
        raise ValueError("lists in the lists of an array")
    if sum(len(row.ids) for row in made.rows) > IDS:
        raise ValueError(f"more than {IDS:,} integers")
    return [np.frombuffer(row.ids, np.int32) if row.ids else np.zeros(0, np.int32) for row in made.rows]
