"""A draft as a table to correct: the template of its class, filled in, with what was told and by which sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.classes.template import class_template
from zsl_runtime.drafting.draft import draft_row

if TYPE_CHECKING:
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.template import Template
    from zsl_runtime.drafting.draft import Draft, Encode

SAID, UNSAID, GUESSED = "text", "unsaid", "guess"  # what a value of a draft rests on


def propose(bundle: Bundle, name: str, text: str, encode: Encode | None) -> tuple[Draft, Template]:
    """Draft a class from its description; the bundle is only read.

    Args:
        bundle: whose generation in force is known.
        name: of the class.
        text: its description.
        encode: as of `draft_row`.

    Raises:
        UsageError: E-CLASS-NAME, E-CLASS-EXISTS; as of `draft_row`.
        ArtefactError: the bundle is damaged.

    """
    template = class_template(bundle, [name])
    table = bundle.current().table
    draft = draft_row(template.names[0], text, table, encode)
    rests = (
        SAID if said else UNSAID if known else GUESSED for said, known in zip(draft.said, draft.known, strict=True)
    )
    examples = template.examples
    if draft.alike:
        examples = table.take(np.array([table.index(one) for one in draft.alike], dtype=np.int64))
    remarks = (("draft: rests on", *rests), ("draft: sentence", *draft.sentences))
    return draft, replace(template, values=draft.row, examples=examples, remarks=remarks)
