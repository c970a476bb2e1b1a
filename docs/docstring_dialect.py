"""How are this project's docstrings read? numpydoc, with types in annotations only.

``mask : path of a Zarr array`` describes `mask`; numpydoc takes what follows the colon for a type. Here it becomes the first
words of the description, and the type is that of the signature or of the attribute's annotation.
"""

from __future__ import annotations

import ast
from typing import Any

from griffe import (
    Attribute,
    Class,
    Docstring,
    DocstringSectionAttributes,
    DocstringSectionParameters,
    ExprCall,
    Extension,
    Function,
    Object,
)


class TypesInAnnotations(Extension):
    """Move what follows a name's colon from type to description."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the parsed docstring of a class or function, and give options the text that they are declared with."""
        if isinstance(obj, Attribute) and _is_setting(obj.value):
            obj.docstring = Docstring(ast.literal_eval(str(obj.value.arguments[1])), parent=obj)
            obj.value = obj.value.arguments[0]
        for parameter in obj.parameters if isinstance(obj, Class) else ():
            if _is_setting(parameter.default):
                parameter.default = parameter.default.arguments[0]
        if obj.docstring is None:
            return
        for section in obj.docstring.parsed:  # kept by the docstring, and shown
            if isinstance(section, DocstringSectionParameters | DocstringSectionAttributes):
                for item in section.value:
                    _settle(obj, item)


def _is_setting(value: Any) -> bool:
    """Whether an option is declared here: ``setting(default, text, ...)``."""
    return isinstance(value, ExprCall) and str(value.function) == "setting"


def _settle(obj: Object, item: Any) -> None:
    words = item.annotation if isinstance(item.annotation, str) else str(item.annotation or "")
    annotation = _annotation(obj, item.name)
    if words and words != str(annotation):
        item.description = f"{words} {item.description}".strip()
    item.annotation = annotation


def _annotation(obj: Object, name: str) -> Any:
    if isinstance(obj, Function):
        found = next((one for one in obj.parameters if one.name.lstrip("*") == name.lstrip("*")), None)
        return found.annotation if found else None
    member = obj.members.get(name) if isinstance(obj, Class) else None
    return member.annotation if isinstance(member, Attribute | Function) else None
