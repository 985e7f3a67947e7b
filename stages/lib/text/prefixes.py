"""For each token of a vocabulary, the token whose bytes are the longest proper prefix of its bytes."""


def prefixes(pieces: list[bytes]) -> list[int]:
    """`pieces` are the bytes of each id. -1 where there is no such token, and for ids without bytes. Of tokens with equal bytes, such as a
    byte piece and a character, the prefix is the last one, which an encoder uses."""
    found, stack = [-1] * len(pieces), []  # the stack has the prefixes of the present piece, each one of the next
    for token in sorted(range(len(pieces)), key=lambda token: (pieces[token], token)):
        if not pieces[token]:
            continue
        while stack and not pieces[token].startswith(pieces[stack[-1]]):
            stack.pop()
        if stack and pieces[stack[-1]] == pieces[token]:
            stack.pop()
        found[token] = stack[-1] if stack else -1
        stack.append(token)
    return found
