"""Generator of the reference page of the sources of data, which lists the forms in
which users can give reviews and articles.

A form is a kind of file, folder or other source. The forms are read from the tables
`FORMS` of the modules `lstm_jax.lab.sentiment.data.sources` and `lstm_jax.lab.generation.data.sources`.
"""

from lstm_jax.lab.generation.data.sources import FORMS as TEXTS
from lstm_jax.lab.sentiment.data.sources import FORMS as REVIEWS


def page() -> str:
    """Return the text of the reference page of the sources of data, in Markdown, with a
    table and examples for each kind of data.
    """
    test_file = "; `--test-data` names a second file, which has the test split"
    reviews = [
        (
            _named(form.keyword, form.description, form.endings),
            form.content + test_file * form.takes_test_file,
            form.example,
        )
        for form in REVIEWS
    ]
    texts = [(form.description, form.content, form.example) for form in TEXTS]
    return "\n\n".join(
        [
            "# Sources of data",
            (
                "A source has the first form that fits it, from top to bottom. "
                "[What is checked](../safety.md) says what is refused."
            ),
            "## Reviews",
            "`lstm-jax train sentiment --data` and `lstm_jax.lab.sentiment.data.prepare` "
            "take these. Texts other than IMDB's need "
            "`--vocabulary frequency`; else they get the ids of IMDB's words.",
            *_described(reviews),
            "## Texts",
            (
                "`lstm-jax train generation --data` and "
                "`lstm_jax.lab.generation.data.prepare_corpus` take one or several of these."
            ),
            *_described(texts),
        ]
    )


def _named(keyword: str, description: str, endings: tuple[str, ...]) -> str:
    names = [f"`{keyword}`"] if keyword else [description] if description else []
    return ", ".join([*names, *(f"a `{ending}` file" for ending in endings)])


def _described(forms: list[tuple[str, str, tuple[str, str] | None]]) -> list[str]:
    """Return a list of Markdown texts: a table of the forms in which data can be given,
    then a code block for each example of a form.

    Args:
        forms: one triple (name, description of the content, example) for each form. The
            example is a pair (file name, text of the file). If a form has no example,
            it is None.
    """
    table = "\n".join(
        [
            "| source | content |",
            "| --- | --- |",
            *(f"| {name} | {content} |" for name, content, _ in forms),
        ]
    )
    examples = [
        f"`{example[0]}`:\n\n```text\n{example[1]}```"
        for *_, example in forms
        if example
    ]
    return [table, *examples]
