"""Syntax trees, read and copied by their fields alone: several times as fast as ast.walk and copy.deepcopy.

deepcopy would also follow what python_minifier leaves behind: it hangs the parent on every node, ast.Load among them, which Python keeps
one of for all trees. After one script had been made, the copy of a name was a copy of a whole program, and the next script took minutes.
"""

import ast


def nodes(tree: ast.AST) -> list[ast.AST]:
    """All nodes from `tree` down, in the order of ast.walk."""
    found = [tree]
    for node in found:
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                found.append(value)
            elif isinstance(value, list):
                found += [item for item in value if isinstance(item, ast.AST)]
    return found


def copied(value):
    """A node, or a list of them, with new nodes all the way down, and where they are in the source."""
    if isinstance(value, list):
        return [copied(item) for item in value]
    if not isinstance(value, ast.AST):
        return value
    fields = {name: copied(getattr(value, name)) for name in value._fields if hasattr(value, name)}
    return type(value)(**fields, **{name: getattr(value, name) for name in value._attributes if hasattr(value, name)})
