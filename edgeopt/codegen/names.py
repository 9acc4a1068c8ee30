"""Model text made safe for C: identifiers, comments, string literals.

Names reach us from ONNX files, so any of them may be empty, huge, or built to break out of a
comment. Identifiers are mangled injectively: two different names never become one symbol.
"""

from __future__ import annotations

import hashlib

#: Longest identifier kept as it is; with our suffixes it still fits the 63 C99 guarantees.
MAX_IDENTIFIER = 40

# Keywords of C and C++ (an input may well be called "in", "class" or "this"), macros that old
# compilers predefine, names that one of our suffixes would turn into a POSIX function, and system
# headers, which a network's own header of that name would hide; last, macros of the templates.
_RESERVED = frozenset(
    {
        "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break",
        "case", "catch", "char", "char16_t", "char32_t", "char8_t", "class", "co_await",
        "co_return", "co_yield", "compl", "concept", "const", "const_cast", "consteval",
        "constexpr", "constinit", "continue", "decltype", "default", "delete", "do", "double",
        "dynamic_cast", "else", "enum", "explicit", "export", "extern", "false", "float", "for",
        "friend", "goto", "if", "inline", "int", "long", "mutable", "namespace", "new",
        "noexcept", "not", "not_eq", "nullptr", "operator", "or", "or_eq", "private", "protected",
        "public", "register", "reinterpret_cast", "requires", "restrict", "return", "short",
        "signed", "sizeof", "static", "static_assert", "static_cast", "struct", "switch",
        "template", "this", "thread_local", "throw", "true", "try", "typedef", "typeid",
        "typename", "union", "unsigned", "using", "virtual", "void", "volatile", "wchar_t",
        "while", "xor", "xor_eq", "fortran", "typeof", "main", "errno", "assert", "linux", "unix",
        "sem", "pthread_attr", "pthread_barrier", "pthread_cond", "pthread_mutex",
        "pthread_rwlock", "edgeopt", "string", "math", "stdint", "stdio", "stdlib", "stddef",
        "time", "signal", "limits", "complex", "locale", "setjmp", "ctype", "stdarg", "stdbool",
        "inttypes", "iso646", "fenv", "tgmath", "wchar", "wctype", "memory", "search", "regex",
        "sched", "semaphore", "pthread", "poll", "glob", "syslog", "unistd", "fcntl", "strings",
        "threads", "uchar", "stdatomic", "stdalign", "stdnoreturn", "features", "alloca",
        "malloc", "elf", "link", "values", "utime", "termios", "dirent", "netdb",
        "edgeopt_program", "NULL", "EOF", "AT", "MARK", "READY", "VECTORS", "VECTOR_ALIGNED",
    }
)  # fmt: skip


def identifier(name: str) -> str:
    """A legal C and C++ identifier, different for every different name.

    Letters, digits and most underscores stay; anything else becomes ``_x<hex>_``, which no kept
    text can spell. Names that are no identifier by themselves start with ``m_x_``, long ones are
    cut behind a digest.

    >>> identifier("mobilenet_v3"), identifier("conv/1"), identifier("class"), identifier("3d")
    ('mobilenet_v3', 'conv_x2f_1', 'm_x_class', 'm_x_3d')
    """
    parts = []
    for i, char in enumerate(name):
        if (char.isascii() and char.isalnum()) or (char == "_" and name[i + 1 : i + 2] != "x"):
            parts.append(char)
        else:
            parts.append(f"_x{ord(char):x}_")
    text = "".join(parts)
    if not text or not text[0].isalpha() or text in _RESERVED:
        text = f"m_x_{text}"
    if len(text) > MAX_IDENTIFIER:
        # After "m_x_" short names never go on with a letter unless they are a reserved word.
        code = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        text = f"m_x_h{code}_{text}"[:MAX_IDENTIFIER]
    return text


def macro(name: str) -> str:
    """The same in capitals, for macros and enumerators; also injective.

    >>> macro("cifar_net"), macro("Net")
    ('CIFAR_NET', 'M_X__X4e_ET')
    """
    return upper(identifier(name))


def upper(text: str) -> str:
    """An identifier made by `identifier` in capitals."""
    changed = "".join(f"_X{ord(c):x}_" if c.isupper() else c.upper() for c in text)
    return changed if changed[0].isalpha() else f"M_X_{changed}"


def comment(text: str, limit: int = 200) -> str:
    """One line that is safe inside a C or CMake comment and inside a Markdown code span.

    >>> comment("a*/ b" + chr(10) + "??/")
    'a* / b<0a>? ?/'
    """
    shown = "".join(
        c if c.isascii() and c.isprintable() and c not in "\\`" else f"<{ord(c):02x}>"
        for c in text[:limit]
    )
    if len(text) > limit:
        shown += "..."
    for pair in ("*/", "/*", "??"):  # comment ends and starts, trigraphs
        while pair in shown:
            shown = shown.replace(pair, f"{pair[0]} {pair[1]}")
    return shown


def string(text: str) -> str:
    r"""A C string literal with its quotes; the bytes are the text in UTF-8.

    >>> print(string('say "hi"\n'))
    "say \"hi\"\012"
    """
    parts = []
    for byte in text.encode("utf-8", "replace"):
        char = chr(byte)
        if char in '"\\?':
            parts.append("\\" + char)
        elif 32 <= byte < 127:
            parts.append(char)
        else:
            parts.append(f"\\{byte:03o}")
    return f'"{"".join(parts)}"'
