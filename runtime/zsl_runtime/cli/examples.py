"""The examples at the end of the commands' help: what a line does, and the line, most needed first.

In them `birds` is a data folder, `run` what zsl-train made of it and `bundle` what zsl-export made of that,
as in README.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from zsl_runtime.cli.command import Example

    Examples: TypeAlias = tuple[Example, ...]

INFER: Examples = (
    ("the best class of each photograph of a folder", "zsl-infer birds/images --engine bundle --topk 1 > labels.csv"),
    (
        "a list of photographs, as JSON lines",
        "find birds -name '*.jpg' | zsl-infer - --engine bundle --format jsonl",
    ),
    (
        "a long run: the same line goes on where it was interrupted",
        "zsl-infer birds/images --engine bundle --output labels.csv --resume",
    ),
    (
        "also copy each photograph into the folder of its class",
        "zsl-infer birds/images --engine bundle --sort-into sorted > labels.csv",
    ),
    (
        "also write why: a sheet for each photograph, and why/index.html",
        "zsl-infer birds/images --engine bundle --explain why > labels.csv",
    ),
)
EVALUATE: Examples = (
    ("how accurate it is on the test photographs of its training", "zsl-eval bundle birds --split run/split.csv"),
    ("on photographs in folders that are called like classes", "zsl-eval bundle birds/images"),
    (
        "a row for each class, and which class is taken for which",
        "zsl-eval bundle birds/images --format csv --confusion mixups.csv > classes.csv",
    ),
)
CLASSES: Examples = (
    ("what is there", "zsl-classes list --engine bundle"),
    (
        "add classes, described by a row of attributes each",
        "zsl-classes add --engine bundle --attributes birds/more_classes.csv",
    ),
    ("take that back", "zsl-classes undo --engine bundle"),
)
LIST: Examples = (
    ("for people", "zsl-classes list --engine bundle"),
    ("for programs", "zsl-classes list --engine bundle --format jsonl"),
    ("a project of Label Studio", "zsl-classes list --engine bundle --format label-studio > birds.xml"),
)
TEMPLATE: Examples = (
    ("a table to fill in", 'zsl-classes template --engine bundle "Sunset Forktail" --output sunset.csv'),
    (
        "one that begins with the values of a class of the model",
        'zsl-classes template --engine bundle "Sunset Forktail" \\\n      --like "Honey Plumewren" --output like.csv',
    ),
)
DRAFT: Examples = (
    (
        "a row of attributes from a description, to be corrected",
        'zsl-classes draft --engine bundle "Sunset Forktail" --from-text sunset.txt \\\n      --output sunset.csv',
    ),
    (
        "from the words of the text and the table alone, to stdout",
        'zsl-classes draft --engine bundle "Sunset Forktail" --from-text sunset.txt \\\n      --without-names',
    ),
)
SIMILAR: Examples = (
    (
        "before classes are added: whom they would be mixed up with",
        "zsl-classes similar --engine bundle --attributes birds/more_classes.csv",
    ),
    (
        "all of it, for a program",
        "zsl-classes similar --engine bundle --attributes birds/more_classes.csv \\\n      --format json",
    ),
)
EXPLAIN: Examples = (
    ("what is known of a class", 'zsl-classes explain --engine bundle "Honey Plumewren"'),
    (
        "of two, for a program",
        'zsl-classes explain --engine bundle "Honey Plumewren" "Amberneck Courser" \\\n      --format json',
    ),
)
ADD: Examples = (
    ("from attributes alone", "zsl-classes add --engine bundle --attributes birds/more_classes.csv"),
    (
        "with a few photographs of them in folders that are called like classes",
        "zsl-classes add --engine bundle --attributes birds/more_classes.csv \\\n      --photos birds/new_species",
    ),
)
TEACH: Examples = (
    ("photographs in folders that are called like classes", "zsl-classes teach --engine bundle --photos birds/images"),
    ("how many photographs each class rests on now", "zsl-classes list --engine bundle"),
)
REFIT: Examples = (
    ("after classes came and went", "zsl-classes refit --engine bundle"),
    ("and if that was no good", "zsl-classes undo --engine bundle"),
)
REMOVE: Examples = (
    ("one class", 'zsl-classes remove --engine bundle "Honey Plumewren"'),
    ("and back again", "zsl-classes undo --engine bundle"),
)
UNDO: Examples = (
    ("the last change", "zsl-classes undo --engine bundle"),
    ("what is in force then", "zsl-classes list --engine bundle"),
)
SIGN: Examples = (
    ("with your private key", "zsl-classes sign --engine bundle --sign maker.pem"),
    (
        "with the certificate of that key",
        "zsl-classes sign --engine bundle --sign maker.pem --sign-certificate maker.crt",
    ),
)
PRUNE: Examples = (
    ("keep what undo can go back to four times", "zsl-classes prune --engine bundle --keep 5"),
    ("keep what is in force", "zsl-classes prune --engine bundle --keep 1"),
)
DOCTOR: Examples = (
    ("what this machine can run", "zsl-doctor"),
    ("whether a bundle is whole and gives its recorded answers here", "zsl-doctor bundle"),
    ("what a word of the commands means", "zsl-doctor --explain generation"),
)
DEMO: Examples = (
    ("a page to try a bundle on; open the address that it prints", "zsl-demo --engine bundle"),
    ("on a copy, so that the bundle stays as it is, and in your browser", "zsl-demo --engine bundle --try --open"),
    ("beside another page", "zsl-demo --engine bundle --port 0"),
)
