"""Seeded mutations of bytes, tables and settings: what careless copying, editing and broken programs make of files."""

NUMBERS = ("", "nan", "-1", "1e308", "99999999999999999999", "0x10", "１", "-0.0", "1,5", "\x00", "inf")
WORDS = ("", "NA", "None", '"', "'", "\n", "\x00", "ä" * 3, "x" * 70_000, "../../etc/passwd", "=1+1", "happy\t", "�")


def bytes_mutated(content, generator):
    """Flip, cut, repeat, insert or overwrite a stretch; often within the header."""
    content = bytearray(content)
    reach = len(content) if generator.random() < 0.5 else min(64, len(content))
    place = generator.randrange(reach)
    kind = generator.choice(("flip", "cut", "drop", "repeat", "insert", "large", "zero"))
    if kind == "flip":
        for _ in range(generator.randrange(1, 5)):
            content[generator.randrange(reach)] ^= 1 << generator.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "drop":
        del content[place : place + generator.randrange(1, 40)]
    elif kind == "repeat":
        content[place:place] = content[place : place + 500] * 3
    elif kind == "insert":
        content[place:place] = generator.randbytes(generator.randrange(1, 60))
    else:
        width = generator.choice((1, 2, 4, 8))
        content[place : place + width] = (b"\xff" if kind == "large" else b"\x00") * width
    return bytes(content)


def table_mutated(text, generator):
    """Change one cell, row, column, separator or the encoding of a CSV table; bytes."""
    lines = text.splitlines()
    kind = generator.choice(
        ("cell", "cell", "cell", "row", "column", "twice", "separator", "encoding", "bytes", "head")
    )
    row = generator.randrange(len(lines))
    cells = lines[row].split(",")
    column = generator.randrange(len(cells))
    if kind == "cell":
        cells[column] = generator.choice(NUMBERS + WORDS)
        lines[row] = ",".join(cells)
    elif kind == "row":
        del lines[row]
    elif kind == "column":
        lines = [",".join(line.split(",")[:column] + line.split(",")[column + 1 :]) for line in lines]
    elif kind == "twice":
        lines.insert(generator.randrange(len(lines)), lines[row])
    elif kind == "separator":
        lines = [line.replace(",", ";") for line in lines]
    elif kind == "head":
        lines = lines[: generator.randrange(2)]
    text = "\n".join(lines) + "\n"
    if kind == "encoding":
        return text.replace("a", "ä").encode(generator.choice(("latin-1", "utf-16", "utf-8-sig")))
    return bytes_mutated(text.encode(), generator) if kind == "bytes" else text.encode(errors="replace")


def tree_mutated(content, generator, depth=0):
    """Nested plain content with one value or key changed."""
    if isinstance(content, dict) and content and (depth == 0 or generator.random() < 0.7):
        key = generator.choice(sorted(content, key=str))
        if generator.random() < 0.15:
            return {name: value for name, value in content.items() if name != key}
        return {**content, key: tree_mutated(content[key], generator, depth + 1)}
    odd = (None, -1, 0, 10**9, 2**70, float("nan"), "", "x", [], {}, True, [1, [2]], {"_target_": "os.system"}, b"x")
    return generator.choice(odd)


def overrides_mutated(keys, generator):
    """One ``key=value`` word with a key of the program and a value that fits badly."""
    values = ("", "null", "-1", "0", "nan", "inf", "1e400", "[]", "{}", "[1,2]", "{a:1}", "'", '"', "$", "${fold}",
              "${no.such}", "${oc.env:NOPE}", "true", "ä", "../x", "a=b", "1..2", "\\", "x" * 5000)  # fmt: skip
    return f"{generator.choice(('', '', '+', '++', '~'))}{generator.choice(keys)}={generator.choice(values)}"
