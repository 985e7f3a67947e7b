"""A program in as few bytes as Python will still run: names shortened, compressed, in base85, behind a line that undoes it.

The program is compressed with brotli and with LZMA2, and the smaller one is taken. Where it has a kernel of Triton, whose compiler reads
the source of what it compiles, Python is told the lines of the program.
"""

import ast
import base64
import lzma

import brotli
import python_minifier

LITERALS = [dict(zip(("lc", "lp", "pb"), bits, strict=True)) for bits in ((4, 0, 0), (3, 0, 0), (3, 1, 0), (2, 2, 0), (0, 0, 0))]
LZMA = "import lzma as d,base64 as b{more}\ns=d.decompress(b.b85decode({code!r}),3,None,[{{'id':33,'lc':{lc},'lp':{lp},'pb':{pb}}}]){run}"
BROTLI = "import brotli as d,base64 as b{more}\ns=d.decompress(b.b85decode({code!r})){run}"
PLAIN = {"more": "", "run": "\nexec(s)"}
WITH_SOURCE = {"more": ",linecache as l", "run": ".decode()\nl.cache['s']=9,None,s.splitlines(1),'s'\nexec(compile(s,'s','exec'))"}


def shortened(tree: ast.Module) -> str:
    """The program with short names."""
    return python_minifier.minify(
        ast.unparse(tree), remove_literal_statements=True, rename_globals=True, hoist_literals=False,
        combine_imports=True, remove_annotations=False, remove_asserts=True, remove_debug=True, remove_object_base=True,
        convert_posargs_to_args=True, prefer_single_line=False)


def wrapped(program: str) -> str:
    """A script that runs `program`; the shortest that was found."""
    data, how = program.encode(), WITH_SOURCE if "triton" in program else PLAIN
    found = [BROTLI.format(**how, code=_base85(brotli.compress(data, quality=11, lgwin=window, mode=mode)))
             for window in (18, 22) for mode in (brotli.MODE_GENERIC, brotli.MODE_TEXT)]
    for bits in LITERALS:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 20, "nice_len": 273, **bits}]
        found.append(LZMA.format(**how, code=_base85(lzma.compress(data, lzma.FORMAT_RAW, filters=filters)), **bits))
    return min(found, key=len)


def _base85(data: bytes) -> str:
    return base64.b85encode(data).decode()
